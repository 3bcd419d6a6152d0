from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from wordpiece import word_tokenizer

from bench.batching import evaluation_batches
from bench.data import encode, model_inputs
from bench.encoded import Encoded
from bench.errors import UserError
from bench.tasks.heads import HEADS
from bench.tasks.task import Source, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?é"
FIRST = [
    "a good film",
    "",  # empty
    "The PLOT is poor, but not the cast!",
    "naïve café Œuvre 日本 🎬 e\u0301",  # accents, ideographs, an emoji, a combining mark
    "word " * 400,  # longer than any sequence
    "unbelievablylongwordthatisspeltout",
    " \t\n ",  # nothing but space
]
SECOND = ["bad scene", "plot " * 50, "", "x", "story " * 300, "of", "cast"]


def make_task(head: str = "classification", **changes) -> Task:
    values = {
        "name": "toy",
        "summary": "",
        "head": head,
        "source": Source(kind="directory", path="toy"),
        "text": ("first", "second"),
        "labels": ("no", "yes") if head == "classification" else (),
        "splits": {"train": "train", "validation": "validation"},
        "main_score": "accuracy" if head == "classification" else "pearson",
        "scores": ("accuracy",) if head == "classification" else ("pearson",),
        "max_length": 24,
        "licence": "none",
        "citation": "none",
    }
    return Task(**values | changes)


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(
        ["a good film plot is poor but not the cast bad scene story word of"], letters=LETTERS
    )


@pytest.fixture
def rows() -> Dataset:
    return Dataset.from_dict({"first": FIRST, "second": SECOND, "label": [0, 1, 1, 0, 1, 0, 1]})


def all_in_one(encoded: Encoded) -> dict[str, torch.Tensor]:
    return encoded.batch(np.arange(len(encoded.lengths)), int(encoded.lengths.max()))


@pytest.mark.parametrize("columns", [("first",), ("first", "second")])
def test_a_batch_is_what_the_tokenizer_makes_of_the_rows(tokenizer, rows: Dataset, columns: tuple) -> None:
    task = make_task(text=columns)
    batch = all_in_one(encode(task, rows, tokenizer, cache=None, key="k"))
    expected = tokenizer(
        *(rows[name][:] for name in columns),
        truncation="longest_first",
        max_length=24,
        padding="longest",
        return_tensors="pt",
    )
    assert set(batch) == {*expected, "labels"}
    for name, tensor in expected.items():
        assert torch.equal(batch[name], tensor), name
        assert batch[name].dtype == torch.int64
    assert batch["labels"].tolist() == rows["label"][:]


def test_rows_in_several_chunks_come_out_in_order(tokenizer, rows: Dataset, monkeypatch) -> None:
    whole = all_in_one(encode(make_task(), rows, tokenizer, cache=None, key="k"))
    monkeypatch.setattr("bench.tasks.sequences.ROWS_AT_ONCE", 2)
    chunked = all_in_one(encode(make_task(), rows, tokenizer, cache=None, key="k"))
    assert all(torch.equal(chunked[name], tensor) for name, tensor in whole.items())


def test_a_batch_pads_each_row_by_itself(tokenizer, rows: Dataset) -> None:
    encoded = encode(make_task(), rows, tokenizer, cache=None, key="k")
    indices = np.array([5, 0, 1])
    batch = encoded.batch(indices, 30)
    for place, row in enumerate(indices):
        length = int(encoded.lengths[row])
        alone = encoded.batch(np.array([row]), length)
        assert torch.equal(batch["input_ids"][place, :length], alone["input_ids"][0])
        assert torch.equal(batch["token_type_ids"][place, :length], alone["token_type_ids"][0])
        assert batch["attention_mask"][place].tolist() == [1] * length + [0] * (30 - length)
        assert batch["input_ids"][place, length:].tolist() == [tokenizer.pad_token_id] * (30 - length)
        assert batch["token_type_ids"][place, length:].sum() == 0


def test_a_feature_is_never_cut_to_fit_a_batch(tokenizer, rows: Dataset) -> None:
    encoded = encode(make_task(), rows, tokenizer, cache=None, key="k")
    with pytest.raises(ValueError, match="24 tokens does not fit a batch of length 23"):
        encoded.batch(np.array([0, 4]), 23)


def test_a_text_of_a_hundred_thousand_characters_is_cut(tokenizer) -> None:
    rows = Dataset.from_dict({"first": ["film " * 20_000, "x" * 100_000], "second": ["a", "b " * 50_000]})
    encoded = encode(make_task(), rows, tokenizer, cache=None, key="k")
    assert encoded.lengths.tolist() == [24, 24]


def test_regression_labels_are_floats_and_unlabelled_rows_have_none(tokenizer, rows: Dataset) -> None:
    task = make_task("regression")
    labelled = rows.remove_columns("label").add_column("label", [0.5, 1, 2, 3, 4, 5, 2.25])
    assert all_in_one(encode(task, labelled, tokenizer, cache=None, key="k"))["labels"].dtype == torch.float32
    unlabelled = encode(task, rows.remove_columns("label"), tokenizer, cache=None, key="k")
    assert "labels" not in all_in_one(unlabelled)
    assert unlabelled.targets("labels") is None


def test_rows_go_by_their_id_or_their_number(tokenizer, rows: Dataset) -> None:
    numbered = encode(make_task(), rows, tokenizer, cache=None, key="k")
    assert numbered.row_ids(np.array([6, 0])) == ["6", "0"]
    named = rows.add_column("idx", [f"id-{'x' * row}" for row in range(7)])
    encoded = encode(make_task(id="idx"), named, tokenizer, cache=None, key="k")
    assert encoded.row_ids(np.array([2, 0])) == ["id-xx", "id-"]


def test_padding_and_truncation_of_the_tokenizer_itself_do_not_matter(tokenizer, rows: Dataset) -> None:
    expected = all_in_one(encode(make_task(), rows, tokenizer, cache=None, key="k"))
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(7)
    backend.enable_padding(length=50)
    before = backend.to_str()
    try:
        found = all_in_one(encode(make_task(), rows, tokenizer, cache=None, key="k"))
        assert backend.to_str() == before
    finally:
        backend.no_truncation()
        backend.no_padding()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


def test_the_cache_is_read_and_mapped_the_second_time(
    tokenizer, rows: Dataset, tmp_path: Path, monkeypatch
) -> None:
    first = encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
    monkeypatch.setattr(HEADS["classification"], "encode", lambda *_, **__: pytest.fail("encoded again"))
    second = encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
    assert all(torch.equal(second.tensors[name], tensor) for name, tensor in first.tensors.items())
    assert (first.ids == second.ids).all()
    maps = Path("/proc/self/maps")
    if maps.exists():
        assert str(next(tmp_path.glob("*/input_ids.npy"))) in maps.read_text()


def test_writing_to_a_mapped_tensor_leaves_the_cache_alone(tokenizer, rows: Dataset, tmp_path: Path) -> None:
    encode(make_task(), rows, tokenizer, cache=tmp_path, key="k").tensors["input_ids"].zero_()
    again = encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
    assert again.tensors["input_ids"].any()


@pytest.mark.parametrize("change", ["key", "max_length", "columns", "tokenizer", "head", "rows"])
def test_the_cache_tells_apart(tokenizer, rows: Dataset, tmp_path: Path, change: str) -> None:
    encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
    task, other, key = make_task(), tokenizer, "k"
    if change == "key":
        key = "l"
    elif change == "max_length":
        task = make_task(max_length=25)
    elif change == "columns":
        task = make_task(text=("second", "first"))
    elif change == "tokenizer":
        other = word_tokenizer(["good a film"], letters=LETTERS)
    elif change == "head":
        task = make_task("regression")
    else:
        rows = rows.select(range(5))
    cached = encode(task, rows, other, cache=tmp_path, key=key)
    fresh = encode(task, rows, other, cache=None, key=key)
    assert len([folder for folder in tmp_path.iterdir() if folder.is_dir()]) == 2
    assert torch.equal(cached.tensors["input_ids"], fresh.tensors["input_ids"])


def test_a_damaged_cache_is_encoded_again_with_a_warning(
    tokenizer, rows: Dataset, tmp_path: Path, caplog
) -> None:
    first = encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
    file = next(tmp_path.glob("*/input_ids.npy"))
    whole = file.read_bytes()
    del first
    file.write_bytes(whole[:-4])
    with caplog.at_level(logging.WARNING):
        encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
    assert "damaged" in caplog.text
    assert next(tmp_path.glob("*/input_ids.npy")).read_bytes() == whole


def test_a_write_that_fails_leaves_nothing_that_is_read(
    tokenizer, rows: Dataset, tmp_path: Path, monkeypatch
) -> None:
    def full(*_) -> None:
        raise OSError("no space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="no space"):
            encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
    (left,) = [path for path in tmp_path.iterdir() if path.is_dir()]
    assert len(encode(make_task(), rows, tokenizer, cache=tmp_path, key="k").lengths) == len(rows)
    assert not left.exists()


def test_processes_that_encode_at_once_agree(tokenizer, rows: Dataset, tmp_path: Path) -> None:
    expected = encode(make_task(), rows, tokenizer, cache=None, key="k")
    children = []
    for _ in range(3):
        child = os.fork()
        if child == 0:
            code = 1
            try:
                encoded = encode(make_task(), rows, tokenizer, cache=tmp_path, key="k")
                code = 0 if encoded.lengths.tolist() == expected.lengths.tolist() else 2
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0, 0]
    assert len([path for path in tmp_path.iterdir() if path.is_dir()]) == 1


def test_what_cannot_be_encoded_is_refused(tokenizer, rows: Dataset) -> None:
    with pytest.raises(UserError, match="no rows"):
        encode(make_task(), rows.select([]), tokenizer, cache=None, key="k")
    with pytest.raises(UserError, match="unknown score 'acuracy'; did you mean 'accuracy'"):
        encode(make_task(scores=("acuracy",), main_score="acuracy"), rows, tokenizer, cache=None, key="k")
    three = make_task(labels=("a", "b", "c"), scores=("f1",), main_score="f1")
    with pytest.raises(UserError, match="unknown score 'f1'"):
        encode(three, rows, tokenizer, cache=None, key="k")


def test_a_model_is_given_token_types_only_if_it_takes_them(tokenizer, rows: Dataset) -> None:
    from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

    size = len(tokenizer)
    batch = all_in_one(encode(make_task(), rows, tokenizer, cache=None, key="k"))
    bert = BertModel(
        BertConfig(vocab_size=size, hidden_size=8, num_hidden_layers=1, num_attention_heads=1)
    ).eval()
    distilbert = DistilBertModel(
        DistilBertConfig(vocab_size=size, dim=8, n_layers=1, n_heads=1, hidden_dim=8)
    )
    assert set(model_inputs(bert, batch)) == {"input_ids", "attention_mask", "token_type_ids"}
    assert set(model_inputs(distilbert, batch)) == {"input_ids", "attention_mask"}
    given = bert(**model_inputs(bert, batch)).last_hidden_state
    types = torch.zeros_like(batch["token_type_ids"])
    assert not torch.allclose(
        given, bert(**model_inputs(bert, batch | {"token_type_ids": types})).last_hidden_state
    )


def test_a_batch_reads_no_value_back_from_the_device(tokenizer, rows: Dataset) -> None:
    encoded = encode(make_task(), rows, tokenizer, cache=None, key="k").to(
        "meta"
    )  # its tensors have no values
    batch = encoded.batch(np.array([1, 4, 2]), 24)
    assert all(tensor.shape == (3, 24) for name, tensor in batch.items() if name != "labels")
    assert batch["labels"].shape == (3,)


@pytest.mark.gpu
def test_batches_on_a_gpu_need_no_synchronisation(tokenizer, rows: Dataset) -> None:
    here = encode(make_task(), rows, tokenizer, cache=None, key="k")
    there = here.to("cuda")
    there.batch(np.array([0]), 24)  # first allocations may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        batches = [there.batch(batch.indices, batch.length) for batch in evaluation_batches(there.lengths, 3)]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    for batch, found in zip(evaluation_batches(here.lengths, 3), batches, strict=True):
        expected = here.batch(batch.indices, batch.length)
        assert all(torch.equal(found[name].cpu(), tensor) for name, tensor in expected.items())
