from __future__ import annotations

import os
from collections import Counter

import pytest
import torch
from toy_inputs import CLS, SEP, Rows

from bench.errors import UserError
from bench.latency.workloads import Workload, streams

REAL = os.environ.get("MOEBENCH_DATA")
PAD = 0


@pytest.mark.parametrize("name", ["8x128", "1x16", "512x384", "8xreal", "1xreal"])
def test_names_survive_a_round_trip(name: str) -> None:
    assert Workload.parse(name).name == name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("8", "unknown workload '8'"),
        ("8xlong", "unknown workload '8xlong'"),
        ("8x128x1", "unknown workload"),
        ("-8x128", "unknown workload"),
        ("8 x 128", "unknown workload"),
        ("0x128", "batch size is at least 1"),
        ("8x7", "length is at least 8"),
    ],
)
def test_bad_names_say_what_is_possible(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Workload.parse(name)


@pytest.mark.parametrize("length", [8, 17, 64, 300])
def test_single_sentences_fill_the_length_with_the_words_of_rows(sentences: Rows, length: int) -> None:
    batches = streams([Workload(4, length)], sentences.encoded, seed=1, batches=3)[f"4x{length}"]
    words = [row[1:-1] for row in sentences.ids]
    assert len(batches) == 3
    for batch in batches:
        assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
        assert batch["attention_mask"].eq(1).all()
        assert batch["token_type_ids"].eq(0).all()
        for row in batch["input_ids"].tolist():
            assert len(row) == length
            assert row[0] == CLS
            assert row[-1] == SEP
            left = row[1:-1]
            while left:  # whole rows, the last one cut
                (used,) = [row for row in words if row[: len(left)] == left[: len(row)]]
                left = left[len(used) :]


@pytest.mark.parametrize("length", [8, 9, 33, 128])
def test_pairs_keep_two_segments_with_their_types(pairs: Rows, length: int) -> None:
    (batch,) = streams([Workload(6, length)], pairs.encoded, seed=2, batches=1)[f"6x{length}"]
    for ids, types in zip(batch["input_ids"].tolist(), batch["token_type_ids"].tolist(), strict=True):
        assert ids[0] == CLS
        assert ids[-1] == SEP
        assert ids.count(CLS) == 1
        assert ids.count(SEP) == 2
        assert PAD not in ids
        boundary = ids.index(SEP) + 1
        assert types == [0] * boundary + [1] * (length - boundary)
        assert {token // 1000 for token in ids[1 : boundary - 1]} == {1}
        assert {token // 1000 for token in ids[boundary:-1]} == {2}


def test_the_longer_side_of_a_pair_gives_way(pairs: Rows) -> None:
    pairs.ids[:] = [[CLS, 1000, 1001, SEP, *range(2000, 2040), SEP]]
    pairs.types[:] = [[0] * 4 + [1] * 41]
    (batch,) = streams([Workload(1, 20)], pairs.encoded, seed=0, batches=1)["1x20"]
    expected = [CLS, 1000, 1001, SEP, *range(2000, 2015), SEP]
    assert batch["input_ids"].tolist() == [expected]


def test_real_lengths_are_whole_rows_padded_to_the_longest_of_the_batch(pairs: Rows) -> None:
    batches = streams([Workload(5, None)], pairs.encoded, seed=3, batches=4)["5xreal"]
    seen = []
    for batch in batches:
        lengths = batch["attention_mask"].sum(dim=1)
        assert batch["input_ids"].shape == (5, int(lengths.max()))
        for ids, length in zip(batch["input_ids"].tolist(), lengths.tolist(), strict=True):
            assert set(ids[length:]) <= {PAD}
            seen.append(pairs.ids.index(ids[:length]))
    assert len(seen) == len(set(seen)) == 20
    assert len({batch["input_ids"].shape for batch in batches}) > 1


def test_every_row_comes_once_before_any_comes_again(sentences: Rows) -> None:
    batches = streams([Workload(1, None)], sentences.encoded, seed=0, batches=2 * len(sentences.ids))[
        "1xreal"
    ]
    order = [sentences.ids.index(batch["input_ids"][0].tolist()) for batch in batches]
    half = len(sentences.ids)
    assert sorted(order[:half]) == sorted(order[half:]) == list(range(half))
    assert order[:half] != order[half:]


def test_batches_depend_on_the_seed_and_on_nothing_else_asked_for(sentences: Rows) -> None:
    def built(seed: int, *names: str) -> torch.Tensor:
        found = streams([Workload.parse(name) for name in names], sentences.encoded, seed, batches=2)
        return torch.stack([batch["input_ids"] for batch in found["3x32"]])

    alone = built(7, "3x32")
    assert torch.equal(alone, built(7, "2xreal", "3x32", "8x64"))
    assert not torch.equal(alone, built(8, "3x32"))
    assert not torch.equal(alone[0], alone[1])


def test_rows_without_words_are_an_error_and_not_an_endless_loop(sentences: Rows) -> None:
    sentences.ids[:] = [[CLS, SEP]]
    sentences.types[:] = [[0, 0]]
    with pytest.raises(UserError, match="no words"):
        streams([Workload(1, 8)], sentences.encoded, seed=0)
    sentences.ids.clear()
    with pytest.raises(UserError, match="no words"):
        streams([Workload(1, 8)], sentences.encoded, seed=0)


def test_more_rows_than_the_split_has_are_drawn_in_chunks(sentences: Rows) -> None:
    (batch,) = streams([Workload(300, 40)], sentences.encoded, seed=0, batches=1)["300x40"]
    assert batch["input_ids"].shape == (300, 40)
    assert len({tuple(row) for row in batch["input_ids"].tolist()}) > 250
    assert set(batch["input_ids"].unique().tolist()) == {token for row in sentences.ids for token in row}


@pytest.mark.skipif(not REAL, reason="MOEBENCH_DATA names no folder with GLUE")
@pytest.mark.parametrize("length", [16, 64, 300])
def test_real_pairs_keep_the_mixture_of_their_words(length: int) -> None:
    from wordpiece import word_tokenizer

    from bench.data import encode
    from bench.sources import load_rows
    from bench.tasks import catalog

    task = catalog.find("rte")
    rows = load_rows(task, roles=["validation"]).splits["validation"]
    tokenizer = word_tokenizer([*rows["sentence1"], *rows["sentence2"]])
    encoded = encode(task, rows, tokenizer, cache=None, key="")
    found = streams([Workload(64, length)], encoded, seed=0)[f"64x{length}"]
    packed = torch.cat([batch["input_ids"] for batch in found])
    types = torch.cat([batch["token_type_ids"] for batch in found])
    assert packed.shape == (512, length)
    assert (packed == tokenizer.sep_token_id).sum(dim=1).eq(2).all()
    assert types.diff(dim=1).ge(0).all()
    assert types.float().mean() > 0.1
    commonest = [token for token, _ in Counter(encoded.tensors["input_ids"].tolist()).most_common(12)]
    seen = [token for token, _ in Counter(packed.flatten().tolist()).most_common(12)]
    assert len(set(commonest) & set(seen)) >= 9
