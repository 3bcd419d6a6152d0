from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from wordpiece import word_tokenizer

from bench.assets import MINILM, state_of
from bench.data import encode
from bench.encoded import Encoded
from bench.evaluation import score
from bench.tasks.answers import LONGEST_ANSWER, best_spans
from bench.tasks.squad import SQUAD_V1, SQUAD_V2
from bench.tasks.task import Task

REAL = os.environ.get("MOEBENCH_DATA")
real_data = pytest.mark.skipif(not REAL, reason="MOEBENCH_DATA names no folder with GLUE and SQuAD")


def make_encoded(windows: list[tuple[int, int, int]]) -> Encoded:
    """Lay out features of (row, tokens before the context, tokens of the context) and a last special token.

    The n-th token of a context covers the characters 10 n to 10 n + 5.
    """
    spans, lengths = [], []
    for _, before, context in windows:
        spans += [(0, 0)] * before + [(10 * token, 10 * token + 5) for token in range(context)] + [(0, 0)]
        lengths.append(before + context + 1)
    rows = np.array([row for row, _, _ in windows], dtype=np.int32)
    tokens = np.zeros(sum(lengths), dtype=np.int32)
    arrays = {
        "input_ids": tokens,
        "token_type_ids": tokens.astype(np.int8),
        "spans": np.array(spans, dtype=np.int32),
        "lengths": np.array(lengths, dtype=np.int32),
        "rows": rows,
        "ids": np.arange(rows.max() + 1).astype(np.str_),
    }
    return Encoded.from_arrays(arrays, pad_token_id=0)


def dumb_best(
    encoded: Encoded, starts: np.ndarray, ends: np.ndarray, longest: int
) -> list[tuple[int, int, float]]:
    """Try every span of every window, one after the other."""
    found = []
    for row in range(len(encoded.ids)):
        best, null = (0, 0, -np.inf), np.inf
        for feature in np.flatnonzero(encoded.rows == row):
            flat = int(encoded.lengths[:feature].sum())
            spans = encoded.spans[flat : flat + encoded.lengths[feature]]
            null = min(null, starts[feature, 0] + ends[feature, 0])
            for first in range(len(spans)):
                for last in range(first, min(first + longest, len(spans))):
                    value = starts[feature, first] + ends[feature, last]
                    if spans[first, 1] > 0 and spans[last, 1] > 0 and value > best[2]:
                        best = (int(spans[first, 0]), int(spans[last, 1]), value)
        found.append((best[0], best[1], null - best[2]))
    return found


windows = st.lists(st.tuples(st.integers(1, 3), st.integers(0, 6)), min_size=1, max_size=6)


@given(windows, st.lists(st.booleans(), min_size=6, max_size=6), st.integers(1, 5), st.integers(0, 1000))
@settings(max_examples=150, deadline=None)
def test_the_best_span_is_the_best_of_all(
    shapes: list[tuple[int, int]], new_row: list[bool], longest: int, seed: int
) -> None:
    rows = np.cumsum([False, *new_row])[: len(shapes)]
    encoded = make_encoded([(int(row), *shape) for row, shape in zip(rows, shapes, strict=True)])
    width = int(encoded.lengths.max())
    rng = np.random.default_rng(seed)
    starts, ends = rng.integers(-3, 4, (2, len(shapes), width)).astype(np.float32)  # ties on purpose
    spans = best_spans(encoded, starts, ends, longest)
    expected = dumb_best(encoded, starts, ends, longest)
    assert list(zip(spans.begin, spans.end, spans.null_difference, strict=True)) == expected


def test_an_answer_of_the_longest_length_is_found_and_none_longer() -> None:
    encoded = make_encoded([(0, 2, 100)])
    starts = np.zeros((1, 103), dtype=np.float32)
    ends = starts.copy()
    starts[0, 2] = ends[0, 2 + LONGEST_ANSWER - 1] = ends[0, 2 + LONGEST_ANSWER] = 5
    ends[0, 2 + LONGEST_ANSWER] = 9  # one token too far
    spans = best_spans(encoded, starts, ends)
    assert (spans.begin[0], spans.end[0]) == (0, 10 * (LONGEST_ANSWER - 1) + 5)


def test_the_larger_sum_wins_over_windows_and_the_smallest_null_score_counts() -> None:
    encoded = make_encoded([(0, 2, 4), (0, 2, 4), (1, 2, 4)])
    starts = np.zeros((3, 7), dtype=np.float32)
    ends = starts.copy()
    starts[0, 3] = ends[0, 4] = 2
    starts[1, 2] = ends[1, 2] = 3
    starts[:, 0] = [10, 7, 1]
    spans = best_spans(encoded, starts, ends)
    assert (spans.begin.tolist(), spans.end.tolist()) == ([0, 0], [5, 5])
    assert spans.null_difference.tolist() == [7 - 6, 1 - 0]


def squad(version: Task, rows: int | None) -> Dataset:
    folder = Path(REAL or "") / str(version.directory)
    whole = Dataset.from_parquet(str(folder / "validation.parquet"))
    return whole if rows is None else whole.shuffle(seed=0).select(range(rows))


def oracle_logits(encoded: Encoded, rows: Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Put one-hot logits at a gold span, in a window that holds it whole; at ``[CLS]`` where there is no answer.

    Returns:
        Logits of starts and ends ``[features, longest length]``, and which rows have a gold span made of whole tokens.
    """
    starts, ends = np.zeros((2, len(encoded.lengths), int(encoded.lengths.max())), dtype=np.float32)
    expressible = np.zeros(len(rows), dtype=bool)
    first_token = np.cumsum(encoded.lengths) - encoded.lengths
    of_row = np.searchsorted(encoded.rows, np.arange(len(rows) + 1))
    for row, answers in enumerate(rows["answers"][:]):
        features = range(of_row[row], of_row[row + 1])
        if not answers["text"]:
            starts[features, 0] = ends[features, 0] = 1
            expressible[row] = True
        for text, begin in zip(answers["text"], answers["answer_start"], strict=True):
            for feature in features if not expressible[row] else ():
                spans = encoded.spans[first_token[feature] : first_token[feature] + encoded.lengths[feature]]
                first = np.flatnonzero((spans[:, 0] == begin) & (spans[:, 1] > 0))
                last = np.flatnonzero(spans[:, 1] == begin + len(text))
                if len(first) and len(last):
                    starts[feature, first[0]] = ends[feature, last[0]] = 1
                    expressible[row] = True
                    break
    return starts, ends, expressible


def check_oracle(version: Task, max_length: int, rows: Dataset, tokenizer) -> None:
    """One-hot logits at the gold spans answer every question whose answer is made of whole tokens, all but one."""
    task = version.model_copy(update={"max_length": max_length})
    encoded = encode(task, rows, tokenizer, cache=None, key="k")
    *logits, expressible = oracle_logits(encoded, rows)
    certain = np.array(rows["start_certain"][:])
    missed = np.flatnonzero(certain & ~expressible)
    assert {rows[int(row)]["id"] for row in missed} <= INSIDE_A_WORD
    kept = np.flatnonzero(expressible)
    part = encode(task, rows.select(kept), tokenizer, cache=None, key="k")
    features = np.isin(encoded.rows, kept)
    found = score(
        task, rows.select(kept), part, tuple(side[features][:, : part.lengths.max()] for side in logits)
    )
    assert found == dict.fromkeys(task.scores, 1.0)


INSIDE_A_WORD = {"56dfa1d34a1a83140091ebd4"}  # all of its answers are "four", in "fourth"


@real_data
@pytest.mark.parametrize("max_length", [384, 64])
@pytest.mark.parametrize("version", [SQUAD_V1, SQUAD_V2], ids=lambda task: task.name)
def test_gold_spans_score_full_marks_on_a_sample_of_squad(version: Task, max_length: int) -> None:
    rows = squad(version, 300)
    words = word_tokenizer([*rows["context"][:], *rows["question"][:]])
    check_oracle(version, max_length, rows, words)


@pytest.mark.slow
@real_data
@pytest.mark.skipif(state_of(MINILM) != "present", reason="the embedded checkpoint is not in the cache")
@pytest.mark.parametrize("max_length", [384, 64])
@pytest.mark.parametrize("version", [SQUAD_V1, SQUAD_V2], ids=lambda task: task.name)
def test_gold_spans_score_full_marks_on_all_of_squad(version: Task, max_length: int) -> None:
    from transformers import AutoTokenizer

    check_oracle(version, max_length, squad(version, None), AutoTokenizer.from_pretrained(MINILM.folder))
