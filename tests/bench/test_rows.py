from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import UserError
from bench.rows import Split, fingerprint, normalise
from bench.tasks.task import Source, Task

SCORE = {"classification": "accuracy", "regression": "pearson", "extractive-qa": "f1"}


def make_task(head: Any = "classification", **changes: Any) -> Task:
    values: dict[str, Any] = {
        "name": "made",
        "summary": "made",
        "head": head,
        "source": Source(kind="directory", path="made"),
        "text": ("question", "context") if head == "extractive-qa" else ("text",),
        "label": "answers" if head == "extractive-qa" else "label",
        "labels": ("bad", "good") if head == "classification" else (),
        "splits": {"train": "train", "validation": "validation"},
        "main_score": SCORE[head],
        "scores": (SCORE[head],),
        "licence": "none",
        "citation": "none",
    }
    return Task(**(values | changes))


def make_split(**columns: Any) -> Split:
    return Split("rows.csv", pa.table(columns), lambda row: f"rows.csv, row {row + 1}")


def checked(task: Task, **columns: Any) -> pa.Table:
    return normalise(task, make_split(**columns), labelled=True)


def labels(column: Any, **changes: Any) -> list[Any]:
    texts = ["some text"] * len(column)
    return checked(make_task(**changes), text=texts, label=column)["label"].to_pylist()  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "column",
    [
        ["good", "bad", "good"],
        ["1", "0", "1"],
        [1, 0, 1],
        [1.0, 0.0, 1.0],
        [True, False, True],
        pa.array(["good", "bad", "good"]).dictionary_encode(),
        pa.array([1, 0, 1], pa.int8()),
    ],
    ids=["names", "strings", "codes", "floats", "booleans", "dictionary", "bytes"],
)
def test_labels_are_names_or_codes_of_any_type(column: Any) -> None:
    assert labels(column) == [1, 0, 1]


def test_names_that_look_like_numbers_are_names() -> None:
    assert labels([3, 1, 2], labels=("1", "2", "3")) == [2, 0, 1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([0, 1, 7], r"rows\.csv, row 3: column 'label' is '7'; possible: 0 = bad, 1 = good"),
        ([0, -1, -1], r"row 2: column 'label' has no label \(-1\); rows without one .* \(2 such rows\)"),
        ([0, None, 1], r"row 2: column 'label' has no label \(None\)"),
        (["good", "god", "bad"], r"row 2: column 'label' is 'god'"),
        ([0.0, 0.5, 1.0], r"row 2: column 'label' is not a whole number"),
        ([b"0", b"1", b"0"], r"rows\.csv: column 'label' holds binary"),
    ],
)
def test_labels_that_cannot_be_are_refused_with_their_row(column: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        labels(column)


@pytest.mark.parametrize(
    "column", [["1.5", "-2", "3e1"], [1.5, -2.0, 30.0], pa.array([1.5, -2, 30], pa.float32())]
)
def test_regression_targets_are_float32(column: Any) -> None:
    table = checked(make_task("regression"), text=["a", "b", "c"], label=column)
    assert table["label"].type == pa.float32()
    assert table["label"].to_pylist() == [1.5, -2.0, 30.0]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ([1.0, None, 2.0], r"row 2: column 'label' is not a finite number"),
        ([1.0, float("inf"), 2.0], r"row 2: column 'label' is not a finite number"),
        (["1", "good", "2"], r"row 2: column 'label' is no number; for classes, name them: labels:"),
        ([True, False, True], r"column 'label' holds bool, not numbers"),
    ],
)
def test_targets_that_are_no_numbers_are_refused_with_their_row(column: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(make_task("regression"), text=["a", "b", "c"], label=column)


def test_empty_text_and_very_long_text_are_kept() -> None:
    texts = ["", " ", "x" * 100_000]
    assert checked(make_task(), text=texts, label=[0, 1, 0])["text"].to_pylist() == texts


def invalid_utf8(*values: bytes) -> pa.Array:
    return pa.Array.from_buffers(pa.string(), len(values), pa.array(values).buffers())


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", None, "b"], r"rows\.csv, row 2: column 'text' is missing"),
        ([None, None, None], r"row 1: column 'text' is missing \(3 such rows\)"),
        (["a", "b", "c\0d"], r"row 3: column 'text' holds a NUL byte"),
        (
            invalid_utf8(b"a", b"\xed\xa0\x80", b"b"),
            r"row 2: column 'text' is not valid UTF-8 \(a lone surrogate",
        ),
        (invalid_utf8(b"a", b"b", "é".encode("latin-1")), r"row 3: column 'text' is not valid UTF-8"),
        ([1, 2, 3], r"rows\.csv: column 'text' holds int64, not text"),
    ],
    ids=["missing", "all missing", "NUL", "surrogate", "latin-1", "numbers"],
)
def test_text_that_cannot_be_read_is_refused_with_its_row(column: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        checked(make_task(), text=column, label=[0, 1, 0])


def test_ids_are_strings_and_each_is_there_once() -> None:
    task = make_task(id="idx")
    columns = {"text": ["a", "b", "c"], "label": [0, 1, 0]}
    assert checked(task, **columns, idx=[7, 5, 6])["idx"].to_pylist() == ["7", "5", "6"]
    with pytest.raises(UserError, match=r"rows\.csv, row 3: id '7' is there already, at rows\.csv, row 1"):
        checked(task, **columns, idx=[7, 5, 7])
    with pytest.raises(UserError, match=r"rows\.csv, row 2: column 'idx' is missing"):
        checked(task, **columns, idx=["a", None, "b"])


def test_rows_for_submission_need_no_labels() -> None:
    table = normalise(make_task(), make_split(text=["a"]), labelled=False)
    assert table.column_names == ["text"]


ANSWERS = [
    {"text": ["b", "c"], "answer_start": [2, 4]},
    {"text": [], "answer_start": []},
    {"text": ["a"], "answer_start": [0]},
]


def answers(column: Any) -> pa.Table:
    return checked(make_task("extractive-qa"), question=["?"] * 3, context=["a b c"] * 3, answers=column)


def test_answers_are_lists_of_texts_and_offsets() -> None:
    other_order = pa.array(
        [{"answer_start": row["answer_start"], "text": row["text"]} for row in ANSWERS],
        pa.struct([("answer_start", pa.list_(pa.int64())), ("text", pa.large_list(pa.string()))]),
    )
    assert answers(ANSWERS)["answers"].to_pylist() == ANSWERS
    assert answers(other_order)["answers"].to_pylist() == ANSWERS
    assert fingerprint(answers(other_order)) == fingerprint(answers(ANSWERS))


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (["a", "b", "c"], r"column 'answers' holds string, not answers: \{text: \[\.\.\.\]"),
        ([ANSWERS[0], None, ANSWERS[1]], r"row 2: column 'answers' is missing"),
        (
            [*ANSWERS[:2], {"text": ["a"], "answer_start": [0, 1]}],
            r"row 3: column 'answers': text and answer_start differ",
        ),
        (
            [*ANSWERS[:2], {"text": ["\0"], "answer_start": [0]}],
            r"row 3: column 'answers\.text' holds a NUL byte",
        ),
        (
            [*ANSWERS[:2], {"text": None, "answer_start": None}],
            r"row 3: column 'answers' has no list of texts",
        ),
    ],
)
def test_answers_of_another_shape_are_refused(column: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        answers(column)


def test_fingerprint_is_that_of_the_content() -> None:
    table = pa.table({"text": ["a", "bc", ""], "label": [0, 1, 0]})
    chunked = pa.concat_tables([table.slice(0, 1), table.slice(1)])
    assert fingerprint(chunked) == fingerprint(table.take([0, 1, 2])) == fingerprint(table)
    # a value that was written down once: it must not move between versions or machines
    assert fingerprint(table) == "8ae95574072029432837648ba327f0542667e0cdb2204e5ba4a4cfca2cab2d09"


@pytest.mark.parametrize(
    "other",
    [
        {"text": ["ab", "c", ""], "label": [0, 1, 0]},
        {"text": ["bc", "a", ""], "label": [1, 0, 0]},
        {"text": ["a", "bc", ""], "label": [0, 1, 1]},
        {"text": ["a", "bc"], "label": [0, 1]},
        {"texts": ["a", "bc", ""], "label": [0, 1, 0]},
    ],
)
def test_fingerprint_sees_every_change(other: Any) -> None:
    assert fingerprint(pa.table(other)) != fingerprint(
        pa.table({"text": ["a", "bc", ""], "label": [0, 1, 0]})
    )


rows = st.lists(
    st.tuples(st.text(st.characters(exclude_characters="\0", codec="utf-8")), st.integers(0, 1)), min_size=1
)


@given(rows=rows, cut=st.integers(0, 20))
@settings(max_examples=60, deadline=None)
def test_any_text_goes_through_unchanged_and_chunks_do_not_matter(
    rows: list[tuple[str, int]], cut: int
) -> None:
    texts, codes = zip(*rows, strict=True)
    table = checked(make_task(), text=list(texts), label=np.array(codes))
    assert table["text"].to_pylist() == list(texts)
    assert table["label"].to_pylist() == list(codes)
    assert fingerprint(pa.concat_tables([table.slice(0, cut), table.slice(cut)])) == fingerprint(table)
