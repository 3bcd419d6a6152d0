from __future__ import annotations

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import UserError
from bench.holdout import HELD_OUT, choose, hold_out
from bench.sources import Rows
from bench.tasks.glue import MRPC
from results.record import HeldOut

TEXTS = st.lists(st.text(alphabet="abc", max_size=2), min_size=1, max_size=40)


def rows_of(second: list[str]) -> Rows:
    split = Dataset.from_dict(
        {
            "sentence1": [f"first {row}" for row in range(len(second))],
            "sentence2": second,
            "label": [row % 2 for row in range(len(second))],
            "idx": [str(row) for row in range(len(second))],
        }
    )
    return Rows({"train": split}, "fingerprint", "nowhere")


@given(TEXTS, st.integers(1, 40), st.integers(0, 3))
def test_rows_of_one_text_are_chosen_together_and_no_more_than_needed(texts, wanted, seed):
    chosen = choose(texts, wanted, seed)
    assert len(set(chosen)) == len(chosen)
    assert {texts[row] for row in chosen}.isdisjoint(
        texts[row] for row in range(len(texts)) if row not in chosen
    )
    assert len(chosen) >= min(wanted, len(texts))
    last = [row for row in chosen if texts[row] == texts[chosen[-1]]]
    assert len(chosen) - len(last) < wanted


@given(TEXTS, st.integers(1, 40), st.integers(0, 3))
def test_the_choice_follows_texts_and_seed_not_the_order(texts, wanted, seed):
    forth = sorted(texts[row] for row in choose(texts, wanted, seed))
    back = sorted(texts[::-1][row] for row in choose(texts[::-1], wanted, seed))
    assert forth == back


def test_another_seed_holds_out_other_rows():
    texts = [f"text {row}" for row in range(100)]
    assert set(choose(texts, 10, seed=0)) != set(choose(texts, 10, seed=1))


@pytest.mark.parametrize(("share", "most", "expected"), [(0.1, 1000, 10), (0.5, 7, 7), (0.001, 1000, 1)])
def test_the_held_out_rows_and_the_rest_are_the_training_rows(share, most, expected):
    rows = rows_of([f"second {row}" for row in range(100)])
    parts = hold_out(MRPC, rows, HeldOut(share=share, most=most, seed=0))
    assert len(parts.splits[HELD_OUT]) == expected
    assert sorted([*parts.splits["train"]["idx"], *parts.splits[HELD_OUT]["idx"]]) == sorted(
        rows.splits["train"]["idx"]
    )
    assert parts.fingerprint != rows.fingerprint


def test_training_rows_of_one_text_cannot_be_divided():
    with pytest.raises(
        UserError, match="task 'mrpc': tuning cannot hold out rows, since all 5 training rows share"
    ):
        hold_out(MRPC, rows_of(["the same"] * 5), HeldOut(share=0.1, most=10, seed=0))
