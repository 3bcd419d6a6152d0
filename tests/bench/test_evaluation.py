from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from datasets import Dataset
from wordpiece import word_tokenizer

from bench.data import encode
from bench.encoded import Encoded
from bench.evaluation import load_predictions, predict, row_scores, save_predictions, score
from bench.tasks.task import HeadName, Source, Task
from results.predictions import read_predictions

TEXTS = [
    " ".join(["good film", "poor plot and cast", "not a scene"][row % 3] for _ in range(row + 1))
    for row in range(9)
]
SCORES = {
    "classification": ("accuracy", "f1", "matthews"),
    "regression": ("pearson", "spearman"),
    "extractive-qa": ("f1", "exact_match", "no_answer_f1", "best_f1"),
}
HEADS: tuple[HeadName, ...] = ("classification", "regression", "extractive-qa")


def make_task(head: HeadName) -> Task:
    return Task(
        name="toy",
        summary="",
        head=head,
        source=Source(kind="directory", path="toy"),
        text=("question", "context") if head == "extractive-qa" else ("context",),
        label="answers" if head == "extractive-qa" else "label",
        id="id",
        labels=("no", "yes") if head == "classification" else (),
        splits={"train": "train", "validation": "validation"},
        main_score=SCORES[head][0],
        scores=SCORES[head],
        max_length=20,
        licence="none",
        citation="none",
    )


def make_rows(head: HeadName) -> Dataset:
    columns = {"id": [f"row-{row}" for row in range(9)], "context": TEXTS}
    if head == "extractive-qa":
        answers = [{"text": [text[:4]], "answer_start": [0]} for text in TEXTS[:6]] + [
            {"text": [], "answer_start": []} for _ in TEXTS[6:]
        ]
        return Dataset.from_dict(columns | {"question": ["what is good"] * 9, "answers": answers})
    labels = [0, 1, 1, 0, 1, 0, 1, 0, 0] if head == "classification" else [0.5 * row for row in range(9)]
    return Dataset.from_dict(columns | {"label": labels})


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([*TEXTS, "what is"])


@pytest.fixture
def split(tokenizer):
    return lambda head: encode(make_task(head), make_rows(head), tokenizer, cache=None, key="k")


@pytest.fixture
def model(tokenizer):
    """A small BERT of a head, in training mode."""
    from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

    def build(head: HeadName):
        torch.manual_seed(0)
        config = BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            initializer_range=0.3,
            num_labels=make_task(head).num_labels,
        )
        kind = BertForQuestionAnswering if head == "extractive-qa" else BertForSequenceClassification
        return kind(config).train()

    return build


def sides(logits) -> tuple[np.ndarray, ...]:
    return logits if isinstance(logits, tuple) else (logits,)


def one_by_one(model, encoded: Encoded) -> list[tuple[np.ndarray, ...]]:
    """Run every feature alone, without padding."""
    model.eval()
    found = []
    for feature, length in enumerate(encoded.lengths.tolist()):
        batch = encoded.batch(np.array([feature]), length)
        inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
        with torch.no_grad():
            out = model(**inputs)
        found.append(
            tuple(
                t[0].numpy()
                for t in ([out.logits] if "logits" in out else [out.start_logits, out.end_logits])
            )
        )
    return found


@pytest.mark.parametrize("batch_size", [1, 4, 64])
@pytest.mark.parametrize("head", HEADS)
def test_logits_are_those_of_each_feature_alone_in_order(
    split, model, head: HeadName, batch_size: int
) -> None:
    encoded, network = split(head), model(head)
    found = sides(predict(network, encoded, batch_size=batch_size, precision="fp32"))
    for feature, expected in enumerate(one_by_one(network, encoded)):
        for side, alone in zip(found, expected, strict=True):
            assert side.dtype == np.float32
            np.testing.assert_allclose(side[feature, : len(alone)], alone, atol=1e-5)
            assert np.isneginf(side[feature, len(alone) :]).all()
    assert all(len(side) == len(encoded.lengths) for side in found)


def test_modes_of_all_modules_are_as_before_even_after_a_failure(split, model) -> None:
    network = model("classification")
    network.bert.encoder.layer[0].eval()  # a part that its owner keeps frozen
    before = [module.training for module in network.modules()]
    assert len(set(before)) == 2
    predict(network, split("classification"), batch_size=4, precision="fp32")
    assert [module.training for module in network.modules()] == before
    network.classifier.register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        predict(network, split("classification"), batch_size=4, precision="fp32")
    assert [module.training for module in network.modules()] == before


def test_no_gradient_is_kept_and_no_label_is_given(split, model) -> None:
    network = model("classification")
    seen = []
    network.register_forward_pre_hook(
        lambda _, args, inputs: seen.append((torch.is_grad_enabled(), set(inputs))), with_kwargs=True
    )
    predict(network, split("classification"), batch_size=64, precision="fp32")
    assert seen == [(False, {"input_ids", "attention_mask", "token_type_ids"})]


def test_bf16_runs_under_autocast_and_comes_back_as_float32(split, model) -> None:
    network = model("classification")
    types = []
    network.classifier.register_forward_hook(lambda _, __, output: types.append(output.dtype))
    exact = predict(network, split("classification"), batch_size=64, precision="fp32")
    rough = predict(network, split("classification"), batch_size=64, precision="bf16")
    assert types == [torch.float32, torch.bfloat16]
    assert rough.dtype == np.float32
    assert not np.array_equal(rough, exact)
    np.testing.assert_allclose(rough, exact, atol=0.1)


@pytest.mark.parametrize("head", HEADS)
def test_logits_that_are_not_finite_are_refused_with_their_rows(split, model, head: HeadName) -> None:
    encoded, network = split(head), model(head)
    last = network.qa_outputs if head == "extractive-qa" else network.classifier
    with torch.no_grad():
        last.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"not finite; rows: row-0, row-1"):
        predict(network, encoded, batch_size=4, precision="fp32")


@pytest.mark.parametrize("head", HEADS)
def test_scores_are_those_that_the_task_asks_for(split, model, head: HeadName) -> None:
    encoded = split(head)
    logits = predict(model(head), encoded, batch_size=4, precision="fp32")
    found = score(make_task(head), make_rows(head), encoded, logits)
    assert tuple(found) == SCORES[head]


def test_perfect_logits_score_full_marks(split) -> None:
    encoded = split("classification")
    labels = encoded.targets("labels")
    logits = np.eye(2, dtype=np.float32)[labels]
    found = score(make_task("classification"), make_rows("classification"), encoded, logits)
    assert found == {"accuracy": 1, "f1": 1, "matthews": 1}
    encoded = split("regression")
    values = encoded.targets("labels")[:, None] * 2 - 1
    found = score(make_task("regression"), make_rows("regression"), encoded, values)
    assert found == {"pearson": pytest.approx(1), "spearman": pytest.approx(1)}


def test_unlabelled_rows_cannot_be_scored(tokenizer) -> None:
    task, rows = make_task("classification"), make_rows("classification").remove_columns("label")
    encoded = encode(task, rows, tokenizer, cache=None, key="k")
    with pytest.raises(ValueError, match="rows with labels"):
        score(task, rows, encoded, np.zeros((9, 2), dtype=np.float32))


def test_training_features_of_extractive_qa_that_lack_rows_cannot_be_scored(tokenizer) -> None:
    task, rows = make_task("extractive-qa"), make_rows("extractive-qa")
    wrong = rows.map(
        lambda row: (
            row | {"answers": {"text": ["absent"], "answer_start": [0]}} if row["id"] == "row-2" else row
        )
    )
    encoded = encode(task, wrong, tokenizer, cache=None, key="k", training=True)
    zeros = np.zeros((len(encoded.lengths), int(encoded.lengths.max())), dtype=np.float32)
    with pytest.raises(ValueError, match="a feature for every row"):
        score(task, wrong, encoded, (zeros, zeros))


@pytest.mark.parametrize("head", HEADS)
def test_predictions_come_back_to_half_precision(split, model, tmp_path: Path, head: HeadName) -> None:
    encoded = {"validation": split(head), "validation_other": split(head), "train": split(head)}
    logits = {
        role: predict(model(head), encoded[role], batch_size=size, precision="fp32")
        for role, size in (("validation", 4), ("validation_other", 2))
    }
    save_predictions(tmp_path / "deep" / "p.parquet", encoded, logits)
    loaded = load_predictions(tmp_path / "deep" / "p.parquet", encoded)
    assert list(loaded) == ["validation", "validation_other"]
    for role, values in logits.items():
        for side, kept in zip(sides(values), sides(loaded[role]), strict=True):
            np.testing.assert_array_equal(kept, side.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("head", HEADS)
def test_kept_predictions_hold_no_text(split, model, tmp_path: Path, head: HeadName) -> None:
    encoded = split(head)
    logits = predict(model(head), encoded, batch_size=4, precision="fp32")
    extra = row_scores(make_task(head), make_rows(head), encoded, logits)
    save_predictions(tmp_path / "p.parquet", {"v": encoded}, {"v": logits}, {"v": extra})
    table = pq.read_table(tmp_path / "p.parquet")
    strings = [field.name for field in table.schema if "string" in str(field.type)]
    assert set(strings) <= {"split", "row_id"}
    assert table["row_id"].to_pylist() == [f"row-{row}" for row in range(9)]
    metadata = pq.ParquetFile(tmp_path / "p.parquet").metadata.row_group(0).column(1)
    assert metadata.compression == "ZSTD"


def test_kept_row_scores_and_labels_are_what_reports_read(split, model, tmp_path: Path) -> None:
    task, rows, encoded = make_task("extractive-qa"), make_rows("extractive-qa"), split("extractive-qa")
    logits = predict(model("extractive-qa"), encoded, batch_size=4, precision="fp32")
    extra = row_scores(task, rows, encoded, logits)
    save_predictions(tmp_path / "qa.parquet", {"v": encoded}, {"v": logits}, {"v": extra})
    read = read_predictions(tmp_path / "qa.parquet")["v"]
    assert set(read.row_scores) == {"exact_match", "f1"}
    assert read.row_scores["f1"].mean() == pytest.approx(score(task, rows, encoded, logits)["f1"])
    encoded = split("classification")
    logits = predict(model("classification"), encoded, batch_size=4, precision="fp32")
    save_predictions(tmp_path / "c.parquet", {"v": encoded}, {"v": logits})
    read = read_predictions(tmp_path / "c.parquet")["v"]
    np.testing.assert_array_equal(read.labels, encoded.targets("labels"))
    np.testing.assert_allclose(read.logits, logits, atol=1e-2)


def test_logits_beyond_half_precision_are_kept_at_its_limit(split, tmp_path: Path) -> None:
    encoded = split("classification")
    logits = np.tile(np.array([[1e6, -1e6]], dtype=np.float32), (9, 1))
    save_predictions(tmp_path / "p.parquet", {"v": encoded}, {"v": logits})
    kept = load_predictions(tmp_path / "p.parquet", {"v": encoded})["v"]
    assert kept[0].tolist() == [65504, -65504]


def test_predictions_of_other_rows_are_not_read_back(split, tokenizer, tmp_path: Path) -> None:
    encoded = split("classification")
    save_predictions(tmp_path / "p.parquet", {"v": encoded}, {"v": np.zeros((9, 2), dtype=np.float32)})
    fewer = make_rows("classification").select(range(5))
    other = encode(make_task("classification"), fewer, tokenizer, cache=None, key="k")
    with pytest.raises(ValueError, match="not those of the encoded split"):
        load_predictions(tmp_path / "p.parquet", {"v": other})
