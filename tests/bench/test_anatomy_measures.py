"""What anatomies measure: load and tokens, heads without classes, and the interval and p value of a drop."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from datasets import Dataset
from wordpiece import word_tokenizer

from bench.anatomy.measures import Reading, TeacherSays, load_measures, measures, token_measures
from bench.anatomy.scores import Scored, drops, scored, swap_p_value
from bench.batching import evaluation_batches
from bench.data import encode
from bench.evaluation import predict, score
from bench.tasks.task import Source, Task
from moebert import MoEBertConfig, MoEBertForQuestionAnswering, MoEBertForSequenceClassification
from moebert.anatomy import dissect
from moebert.routing import RoutingStatistics
from reports.statistics import holm
from results.anatomy import Subject as SubjectRecord


def test_load_is_counted_token_by_token():
    counts = torch.randint(0, 9, (2, 7, 3))
    counts[:, :, 0] += 20 - counts.sum(2)  # a token comes as often in every layer
    counts[1, :, :] = torch.tensor([20, 0, 0])
    found = load_measures(RoutingStatistics(counts))
    for layer in range(2):
        by_expert = [sum(int(counts[layer, token, expert]) for token in range(7)) for expert in range(3)]
        shares = [count / sum(by_expert) for count in by_expert]
        assert found.share[layer] == pytest.approx(shares, abs=1e-6)
        assert found.imbalance[layer] == pytest.approx(3 * max(shares), abs=1e-5)
        assert found.balance_coefficient[layer] == pytest.approx(
            3 * sum(share**2 for share in shares), abs=1e-5
        )
        entropy = -sum(share * math.log(share) for share in shares if share) / math.log(3)
        assert found.entropy[layer] == pytest.approx(entropy, abs=1e-5)
    assert (found.entropy[1], found.imbalance[1]) == (0, 3)


def test_the_commonest_tokens_come_by_name_with_count_and_share():
    tokenizer = word_tokenizer(["good bad plot"])
    counts = torch.zeros(1, 8, 2, dtype=torch.int64)
    counts[0, 5], counts[0, 6], counts[0, 7] = (
        torch.tensor([30, 10]),
        torch.tensor([5, 0]),
        torch.tensor([4, 0]),
    )
    found = token_measures(RoutingStatistics(counts), tokenizer)
    first, second = (
        [(one.token, one.count, one.share) for one in listed] for listed in found.commonest[0]
    )  # fmt: skip
    assert first == [("good", 30, 0.75), ("bad", 5, 1.0)], "what came four times is no evidence"
    assert second == [("good", 10, 0.25)]


def toy(head: str) -> Task:
    return Task(
        name="toy",
        summary="",
        head=head,  # type: ignore[arg-type]
        source=Source(kind="directory", path="toy"),
        text=("question", "context") if head == "extractive-qa" else ("text",),
        label="answers" if head == "extractive-qa" else "label",
        splits={"train": "train", "validation": "validation"},
        main_score="f1" if head == "extractive-qa" else "pearson",
        scores=("f1", "exact_match") if head == "extractive-qa" else ("pearson",),
        max_length=24,
        licence="none",
        citation="none",
    )


def toy_rows(head: str) -> Dataset:
    words = [f"w{number}" for number in range(12)]
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(words, 14)) for _ in range(20)]
    if head == "regression":
        return Dataset.from_dict({"text": texts, "label": random.normal(size=20)})
    answers = [{"text": [text.split()[4]], "answer_start": [text.index(text.split()[4])]} for text in texts]
    return Dataset.from_dict({"question": ["w1 w2"] * 20, "context": texts, "answers": answers})


@pytest.mark.parametrize("head", ["regression", "extractive-qa"])
def test_heads_without_classes_have_no_labels_and_no_loyalty_and_a_drop_all_the_same(head):
    torch.manual_seed(0)
    task, rows = toy(head), toy_rows(head)
    tokenizer = word_tokenizer([f"w{number}" for number in range(12)])
    encoded = encode(task, rows, tokenizer, cache=None, key="toy")
    classes = {"regression": MoEBertForSequenceClassification, "extractive-qa": MoEBertForQuestionAnswering}
    model = classes[head](
        MoEBertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=64,
            num_labels=task.num_labels,
            initializer_range=0.5,
        )
    ).eval()
    plan = list(evaluation_batches(encoded.lengths, 6))
    found = dissect(model, [encoded.batch(batch.indices, batch.length) for batch in plan])
    reading = Reading(task, rows, encoded, np.concatenate([batch.indices for batch in plan]))
    about = SubjectRecord(checkpoint="", teacher="", model_type="", routing="", data="", rows=20,
                          available_rows=20, tokens=int(encoded.lengths.sum()))  # fmt: skip
    written = measures(found, reading, TeacherSays(None, "no classes"), tokenizer, about)
    assert set(written.absent) == {"movement", "labels", "agreement"}
    logits = predict(model, encoded, batch_size=6, precision="fp32")
    whole = score(task, rows, encoded, logits)[task.main_score]
    assert written.replacement.baseline == pytest.approx(whole, abs=1e-5)
    assert written.replacement.changed is written.replacement.lost is None
    assert any(drop for layer in written.replacement.drop for drop in layer)
    p_values = np.array(written.replacement.p_value)
    assert p_values.shape == np.shape(written.replacement.drop)
    assert ((p_values > 0) & (p_values <= 1)).all()
    assert p_values.min() < 1
    assert reading.by_row(found.visits).sum((1, 2)).tolist() == [
        2 * int(encoded.lengths[encoded.rows == row].sum()) for row in range(20)
    ]
    assert json.loads(written.model_dump_json())["labels"] is None


def means(values: np.ndarray) -> Scored:
    return Scored(values.astype(float), lambda answers, _: float(answers.mean()))


def test_the_interval_of_a_drop_is_that_of_paired_differences():
    random = np.random.default_rng(0)
    right = random.random(800) < 0.8
    worse = right & (random.random(800) < 0.95)
    found = drops(means(right), {(0, 0): means(worse), (0, 1): means(right)}, 800)
    lost = right.astype(float) - worse
    error = lost.std(ddof=1) / np.sqrt(800)
    assert found[0, 0].value == pytest.approx(lost.mean())
    assert found[0, 0].low == pytest.approx(lost.mean() - 1.96 * error, abs=0.2 * error)
    assert found[0, 0].high == pytest.approx(lost.mean() + 1.96 * error, abs=0.2 * error)
    assert (found[0, 1].value, found[0, 1].low, found[0, 1].high) == (0, 0, 0)


def test_a_score_of_chosen_rows_counts_repeated_rows():
    task, rows = toy("regression"), toy_rows("regression")
    encoded = encode(task, rows, word_tokenizer(["w1"], letters="w0123456789"), cache=None, key="toy")
    logits = np.random.default_rng(1).normal(size=(20, 1)).astype(np.float32)
    value = scored(task, rows, encoded, logits)
    chosen = np.array([0, 3, 3, 7, 9])
    expected = np.corrcoef(logits[chosen, 0], np.array(rows["label"][:])[chosen])[0, 1]
    assert value(chosen) == pytest.approx(expected, abs=1e-6)


def test_the_p_value_of_swaps_is_that_of_all_sign_changes():
    random = np.random.default_rng(0)
    own = random.random(40)
    gaps = np.concatenate([random.random(8), [-0.2]])  # nine rows differ: 512 ways to swap them
    other = np.concatenate([own[:9] - gaps, own[9:]])
    exact = np.mean([
        abs(gaps @ np.array([1 if number >> bit & 1 else -1 for bit in range(9)])) >= abs(gaps.sum()) - 1e-12
        for number in range(512)
    ])  # fmt: skip
    assert exact < 0.05
    assert swap_p_value(means(own), means(other)) == pytest.approx(exact, rel=0.35)
    assert swap_p_value(means(own), means(own)) == 1


def test_the_p_value_of_swaps_is_small_where_a_correlation_falls_and_even_where_it_is_noise():
    random = np.random.default_rng(0)
    labels = random.normal(size=300)

    def correlated(noise: float) -> Scored:
        answers = labels + noise * random.normal(size=300)
        return Scored(answers, lambda given, rows: float(np.corrcoef(given, labels[rows])[0, 1]))

    assert swap_p_value(correlated(0.5), correlated(1.0)) == 1 / 5000
    chance = [swap_p_value(correlated(0.5), correlated(0.5)) for _ in range(60)]
    assert np.mean(np.array(chance) < 0.05) < 0.15
    assert 0.35 < np.mean(chance) < 0.65


def test_of_many_experts_without_any_effect_none_is_missed_though_some_interval_lies_above_0():
    random = np.random.default_rng(0)
    own = random.random(200)
    others = {(0, expert): means(own + 0.1 * random.normal(size=200)) for expert in range(40)}
    found = drops(means(own), others, 200)
    assert any(drop.low > 0 for drop in found.values())
    written = holm({expert: swap_p_value(means(own), other) for expert, other in others.items()})
    assert min(written.values()) > 0.05
