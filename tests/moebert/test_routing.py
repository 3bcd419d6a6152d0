from __future__ import annotations

import hashlib
import math
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert import MoEBertConfig, adapt, routing_statistics
from moebert.experts import IMPLEMENTATIONS
from moebert.routing import Gate, balance_loss, balanced_hash, expert_assignment, random_hash


def test_a_random_hash_is_shake_256_of_seed_and_layer() -> None:
    table = random_hash(2, 50, 5, seed=3)
    for layer in range(2):
        digest = hashlib.shake_256(f"moebert:3:{layer}".encode()).digest(4 * 50)
        expected = [int.from_bytes(digest[4 * token : 4 * token + 4], "big") % 5 for token in range(50)]
        assert table[layer].tolist() == expected


def test_a_random_hash_differs_by_layer_and_seed_and_spreads_the_vocabulary() -> None:
    table, other = random_hash(2, 30000, 4, seed=0), random_hash(2, 30000, 4, seed=1)
    for first, second in ((table[0], table[1]), (table[0], other[0])):
        assert 0.23 < (first == second).double().mean() < 0.27
    assert (torch.bincount(table[0]) / 30000 - 0.25).abs().max() < 0.01


def test_a_longer_vocabulary_keeps_the_experts_of_a_shorter() -> None:
    assert torch.equal(random_hash(2, 100, 4, seed=0)[:, :60], random_hash(2, 60, 4, seed=0))


def test_the_seed_of_the_configuration_decides_the_students_table(make_teacher: Any) -> None:
    teacher = make_teacher()
    tables = [
        adapt(
            teacher, MoEBertConfig.from_bert(teacher.config, routing_seed=seed), strategy="random"
        ).bert.router.table
        for seed in (0, 7)
    ]
    assert torch.equal(tables[1], random_hash(3, 97, 4, seed=7))
    assert not torch.equal(tables[0], tables[1])


def balance_of(table: Tensor, frequency: Tensor, experts: int) -> tuple[float, float]:
    """Return the largest load over the mean load, and what the definition allows."""
    loads = torch.zeros(experts, dtype=torch.float64).scatter_add_(0, table, frequency.double())
    allowed = max(1.05, experts * int(frequency.max()) / int(frequency.sum()))
    return float(loads.max() / loads.mean()), allowed * (1 + 1e-12)


@pytest.mark.parametrize("experts", [2, 4, 7, 16])
@pytest.mark.parametrize("exponent", [0.7, 1.0, 1.6])
def test_a_balanced_hash_is_balanced_on_zipfian_tokens(experts: int, exponent: float) -> None:
    frequency = (1e6 / torch.arange(1, 30001).double() ** exponent).long()
    found, allowed = balance_of(balanced_hash(frequency, experts), frequency, experts)
    assert found <= allowed


@pytest.mark.skipif(
    "MOEBENCH_DATA" not in os.environ, reason="MOEBENCH_DATA is not set: no real text to count"
)
def test_a_balanced_hash_is_balanced_on_real_text() -> None:
    import pandas as pd

    path = Path(os.environ["MOEBENCH_DATA"]) / "glue" / "sst2" / "train.parquet"
    words = Counter(word for sentence in pd.read_parquet(path)["sentence"] for word in sentence.split())
    frequency = torch.tensor(list(words.values()))
    for experts in (4, 8):
        found, allowed = balance_of(balanced_hash(frequency, experts), frequency, experts)
        assert found <= allowed


def test_a_balanced_hash_is_greedy_by_frequency() -> None:
    frequency = torch.randint(0, 50, (200,))
    frequency[frequency == 0] = 1
    loads, expected = [0] * 3, [0] * 200
    for token in sorted(range(200), key=lambda token: -int(frequency[token])):
        expert = loads.index(min(loads))
        loads[expert] += int(frequency[token])
        expected[token] = expert
    assert balanced_hash(frequency, 3).tolist() == expected


def test_ids_that_never_occur_spread_over_the_experts() -> None:
    frequency = torch.zeros(1000, dtype=torch.int64)
    frequency[:10] = 100
    counts = torch.bincount(balanced_hash(frequency, 4)[10:], minlength=4)
    assert counts.max() - counts.min() <= 1


def gate(per_sentence: bool, experts: int = 4) -> Gate:
    module = Gate(hidden_size=8, num_experts=experts, per_sentence=per_sentence).double()
    torch.nn.init.normal_(module.weight)
    return module


def test_a_token_gate_is_a_softmax_and_its_largest() -> None:
    module, x = gate(per_sentence=False), torch.randn(3, 5, 8, dtype=torch.float64)
    found = module(x, torch.ones(3, 5))
    for sample in range(3):
        for token in range(5):
            scores = [float(row.detach() @ x[sample, token]) for row in module.weight]
            total = sum(math.exp(score) for score in scores)
            best = scores.index(max(scores))
            assert found.expert_ids[sample, token] == best
            assert abs(found.probability[sample, token] - math.exp(scores[best]) / total) < 1e-12
    assert found.logits.shape == (3, 5, 4)


def test_a_sentence_gate_looks_at_the_mean_of_the_tokens_that_are_not_padding() -> None:
    module, x = gate(per_sentence=True), torch.randn(2, 5, 8, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    found = module(x, mask)
    for sample, length in enumerate((3, 5)):
        probabilities = (module.weight @ x[sample, :length].mean(0)).softmax(0)
        assert (found.expert_ids[sample] == probabilities.argmax()).all()
        torch.testing.assert_close(
            found.probability[sample], probabilities.max().expand(5), rtol=0, atol=1e-12
        )


@pytest.mark.parametrize("per_sentence", [False, True])
def test_of_equal_logits_the_lowest_expert_wins(per_sentence: bool) -> None:
    module, x = gate(per_sentence), torch.randn(3, 5, 8, dtype=torch.float64)
    with torch.no_grad():
        module.weight[:] = module.weight[0]
    assert (module(x, torch.ones(3, 5)).expert_ids == 0).all()


@pytest.mark.parametrize("per_sentence", [False, True])
def test_a_gate_is_not_rounded_under_autocast(per_sentence: bool) -> None:
    module, x, mask = gate(per_sentence).float(), torch.randn(3, 5, 8), torch.ones(3, 5)
    expected = module(x, mask)
    with torch.autocast("cpu", torch.bfloat16):
        found = module(x, mask)
    assert torch.equal(found.logits, expected.logits)
    assert torch.equal(found.probability, expected.probability)


def test_the_winning_probability_scales_what_comes_after_layernorm(
    make_student: Any, make_batch: Any, inputs_of: Any, gate_routing: str
) -> None:
    student, inputs = make_student(gate_routing), inputs_of(make_batch())
    layer = student.bert.encoder.layer[-1]
    seen: dict[str, Any] = {}
    hook = layer.experts.register_forward_hook(lambda _m, args, output: seen.update(args=args))
    layer.gate.register_forward_hook(lambda _m, args, output: seen.update(p=output.probability))
    last = student.bert(**inputs).last_hidden_state
    hook.remove()
    tokens, dispatch = seen["args"]
    normed = layer.experts(tokens, dispatch._replace(probability=None))
    expected = normed.view_as(last) * seen["p"].unsqueeze(-1)
    torch.testing.assert_close(last, expected, rtol=0, atol=1e-12)
    assert seen["p"].max() < 1


def test_the_tasks_gradient_reaches_the_gate(make_student: Any, make_batch: Any, gate_routing: str) -> None:
    student, batch = make_student(gate_routing), make_batch()
    F.cross_entropy(student(**batch).logits, batch["labels"]).backward()
    for layer in student.bert.encoder.layer:
        assert layer.gate.weight.grad.abs().sum() > 0


def test_balance_loss_by_hand() -> None:
    probabilities = torch.rand(3, 5, 4, dtype=torch.float64).softmax(-1)
    winners = probabilities.argmax(-1)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0]])
    tokens = [(sample, token) for sample in range(3) for token in range(5) if mask[sample, token]]
    expected = 0.0
    for expert in range(4):
        share = sum(int(winners[place] == expert) for place in tokens) / len(tokens)
        expected += 4 * share * sum(float(probabilities[place][expert]) for place in tokens) / len(tokens)
    assert abs(float(balance_loss(probabilities, winners, mask)) - expected) < 1e-12


def test_balance_loss_is_1_if_balanced_and_n_if_one_expert_has_all() -> None:
    balanced, ids = torch.full((8, 4), 0.25), torch.arange(8) % 4
    assert float(balance_loss(balanced, ids, torch.ones(8))) == pytest.approx(1)
    collapsed = F.one_hot(torch.zeros(8, dtype=torch.int64), 4).double()
    assert float(balance_loss(collapsed, torch.zeros(8, dtype=torch.int64), torch.ones(8))) == pytest.approx(
        4
    )


def test_balance_loss_has_a_gradient_towards_balance() -> None:
    logits = torch.zeros(8, 4, dtype=torch.float64)
    logits[:, 1] = 1.0
    logits.requires_grad_()
    balance_loss(logits.softmax(-1), logits.argmax(-1), torch.ones(8)).backward()
    assert logits.grad is not None
    assert (logits.grad[:, 1] > 0).all()
    assert (logits.grad[:, [0, 2, 3]] < 0).all()


def test_the_model_sums_the_balance_loss_over_layers_and_its_loss_weighs_it(
    make_student: Any, make_batch: Any, gate_routing: str
) -> None:
    student, batch = make_student(gate_routing, balance_loss_weight=0.3), make_batch()
    outputs = student(**batch)
    expected = torch.zeros(())
    mask = batch["attention_mask"] if gate_routing == "gate-token" else torch.ones(6)
    for logits in outputs.router_logits:
        expected = expected + balance_loss(logits.softmax(-1), logits.argmax(-1), mask)
    torch.testing.assert_close(outputs.balance_loss, expected.double(), rtol=1e-12, atol=0)
    task = F.cross_entropy(outputs.logits, batch["labels"])
    torch.testing.assert_close(outputs.loss, task + 0.3 * outputs.balance_loss, rtol=1e-12, atol=0)


def test_hash_routings_have_no_balance_loss_and_no_router_logits(
    make_student: Any, make_batch: Any, hash_routing: str
) -> None:
    outputs = make_student(hash_routing)(**make_batch())
    assert outputs.balance_loss is None
    assert outputs.router_logits is None


def test_exactly_one_expert_is_touched_per_token(
    make_student: Any, make_batch: Any, inputs_of: Any, routing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    student, inputs = make_student(routing), inputs_of(make_batch())
    student.set_experts_implementation("reference")
    rows: list[int] = []

    def counting(tokens: Tensor, dispatch: Any, weights: Any, activation: Any, dropout: float) -> Tensor:
        def counted(hidden: Tensor) -> Tensor:
            rows.append(len(hidden))
            return activation(hidden)

        return reference(tokens, dispatch, weights, counted, dropout)

    reference = IMPLEMENTATIONS["reference"]
    monkeypatch.setitem(IMPLEMENTATIONS, "reference", counting)
    student(**inputs)
    layers, experts = student.config.num_hidden_layers, student.config.num_experts
    assert len(rows) == layers * experts
    assert sum(rows) == layers * inputs["input_ids"].numel()


def test_statistics_count_what_a_loop_counts(make_student: Any, make_batch: Any, routing: str) -> None:
    student, batches = make_student(routing), [make_batch(), make_batch(batch=2, length=9)]
    expected: Counter[tuple[int, int, int]] = Counter()
    for batch in batches:
        experts = expert_assignment(student, batch)
        for layer in range(3):
            for sample, length in enumerate(batch["attention_mask"].sum(1).tolist()):
                for token in range(length):
                    key = layer, int(batch["input_ids"][sample, token]), int(experts[layer, sample, token])
                    expected[key] += 1
    student.train()
    found = routing_statistics(student, batches)
    assert student.training
    assert {
        tuple(place): int(found.counts[tuple(place)]) for place in found.counts.nonzero().tolist()
    } == expected
    assert found.tokens == sum(int(batch["attention_mask"].sum()) for batch in batches)
    torch.testing.assert_close(found.load.sum(1), torch.ones(3, dtype=torch.float64))


def test_hash_statistics_repeat_the_table(make_student: Any, make_batch: Any, hash_routing: str) -> None:
    student, batch = make_student(hash_routing), make_batch()
    found = routing_statistics(student, [batch])
    seen = batch["input_ids"][batch["attention_mask"] == 1].unique()
    assert torch.equal(found.assignment[:, seen], student.bert.router.table[:, seen])
    unseen = sorted(set(range(97)) - set(seen.tolist()))
    assert (found.assignment[:, unseen] == -1).all()


def test_entropy_and_imbalance_of_known_loads() -> None:
    from moebert.routing import RoutingStatistics

    counts = torch.zeros(2, 3, 4, dtype=torch.int64)
    counts[0, 1] = 5
    counts[1, 2, 3] = 20
    found = RoutingStatistics(counts)
    torch.testing.assert_close(found.entropy, torch.tensor([math.log(4), 0.0], dtype=torch.float64))
    torch.testing.assert_close(found.imbalance, torch.tensor([1.0, 4.0], dtype=torch.float64))


def test_statistics_without_tokens_are_an_error(make_student: Any) -> None:
    with pytest.raises(ValueError, match="at least one token"):
        routing_statistics(make_student("hash-random"), [])


def test_statistics_of_a_dense_model_are_an_error(make_teacher: Any, make_batch: Any) -> None:
    with pytest.raises(ValueError, match="BertForSequenceClassification has no experts"):
        routing_statistics(make_teacher(), [make_batch()])


def test_statistics_that_fail_leave_the_mode_as_it_was(make_student: Any, routing: str) -> None:
    student = make_student(routing).train()
    with pytest.raises(IndexError):
        routing_statistics(student, [{"input_ids": torch.full((1, 3), 97)}])
    assert student.training
