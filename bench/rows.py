"""Check the rows of a split against their task and bring them into one form, or refuse the first bad one by its place.

The form: text as strings, classes as int64 codes, regression targets as float32, answers as SQuAD has them, unique ids
as strings. Everything is done column by column, since tasks have 400,000 rows.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from bench.errors import UserError
from bench.tasks.task import Task

ANSWERS = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int32()))])


@dataclass(frozen=True)
class Split:
    """The rows of a split as they were read.

    Attributes:
        name: The file, or what stands for one.
        table: The rows.
        place: From a row number, counted from 0, to where a person finds the row, counted from 1.
    """

    name: str
    table: pa.Table
    place: Callable[[int], str]

    def refuse(self, bad: np.ndarray | pa.ChunkedArray, problem: str | Callable[[int], str]) -> None:
        """Raise for the first row that is marked, and say how many there are; null counts as not marked.

        Raises:
            UserError: Where any row is marked.
        """
        marks = bad if isinstance(bad, np.ndarray) else pc.fill_null(bad, fill_value=False).to_numpy()
        rows = np.flatnonzero(marks)
        if len(rows):
            said = problem if isinstance(problem, str) else problem(int(rows[0]))
            more = f" ({len(rows)} such rows)" if len(rows) > 1 else ""
            raise UserError(f"{self.place(int(rows[0]))}: {said}{more}")


def normalise(task: Task, split: Split, *, labelled: bool) -> pa.Table:
    """Return the checked columns: text, label (or answers), and id where the task has one.

    Args:
        task: Names the columns and labels.
        split: Its rows as they were read.
        labelled: Every row must have a label; otherwise (rows for submission) labels are left out.

    Raises:
        UserError: Naming file, row and column.
    """
    columns = {name: _text(split, name, split.table[name]) for name in task.text}
    if labelled:
        read_labels = {"classification": _codes, "regression": _targets, "extractive-qa": _answers}
        columns[task.label] = read_labels[task.head](split, task)
    if task.id is not None:
        columns[task.id] = _ids(split, task.id)
    return pa.table(columns)


def fingerprint(table: pa.Table) -> str:
    """Digest names and values of the columns, in order; the file they came from and its chunks do not matter."""
    digest = hashlib.sha256()
    for name in table.column_names:
        digest.update(f"{name}\0{table.num_rows}\0".encode())
        _update(digest, pa.concat_arrays([pa.array([], table[name].type), *table[name].chunks]))
    return digest.hexdigest()


def _text(split: Split, name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return text as it is; empty text is text (special tokens alone), missing text is not."""
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_null(column.type):
        column = column.cast(pa.string())
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"{split.name}: column {name!r} holds {column.type}, not text")
    _require_utf8(split, name, column)
    split.refuse(pc.is_null(column), f"column {name!r} is missing")
    split.refuse(
        pc.match_substring(column, "\0"), f"column {name!r} holds a NUL byte; is the file UTF-8 text?"
    )
    return column.cast(pa.string())


def _require_utf8(split: Split, name: str, column: pa.ChunkedArray) -> None:
    """Refuse bytes that are not UTF-8, lone surrogates among them."""
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        binary = pa.large_binary() if pa.types.is_large_string(column.type) else pa.binary()
        raw = [value for chunk in column.chunks for value in chunk.view(binary).to_pylist()]
        bad = np.array([value is not None and not _is_utf8(value) for value in raw])
        split.refuse(bad, f"column {name!r} is not valid UTF-8 (a lone surrogate, or another encoding)")


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _codes(split: Split, task: Task) -> pa.ChunkedArray:
    """Return class codes; labels are codes already, or the task's names for them."""
    strings = _as_strings(split, task.label)
    codes = pc.index_in(strings, pa.array(task.labels))
    if codes.null_count == len(codes):
        codes = pc.index_in(strings, pa.array([str(code) for code in range(len(task.labels))]))
    split.refuse(pc.is_null(codes), lambda row: _wrong_label(task, strings[row].as_py()))
    return codes.cast(pa.int64())


def _wrong_label(task: Task, label: str | None) -> str:
    if label is None or label == "-1":
        return f"column {task.label!r} has no label ({label}); rows without one can only be a test split"
    possible = ", ".join(f"{code} = {name}" for code, name in enumerate(task.labels))
    return f"column {task.label!r} is {label!r}; possible: {possible}"


def _targets(split: Split, task: Task) -> pa.ChunkedArray:
    """Return regression targets; all must be finite numbers."""
    column = split.table[task.label]
    if pa.types.is_string(column.type):
        values = np.array([_number(value) for value in column.to_pylist()])
        wrong = "is no number; for classes, name them: labels: [...]"
    elif pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        values = column.cast(pa.float64()).to_numpy()
        wrong = "is not a finite number"
    else:
        raise UserError(f"{split.name}: column {task.label!r} holds {column.type}, not numbers")
    split.refuse(~np.isfinite(values), f"column {task.label!r} {wrong}")
    return pa.chunked_array([values.astype(np.float32)])


def _number(value: str | None) -> float:
    try:
        return float(value or "nan")
    except ValueError:
        return float("nan")


def _answers(split: Split, task: Task) -> pa.ChunkedArray:
    """Return answers: for every row a list of texts and a list of their character offsets, both empty for none."""
    column = split.table[task.label].combine_chunks()
    names = {field.name for field in column.type} if pa.types.is_struct(column.type) else set()
    if not {"text", "answer_start"} <= names:
        raise UserError(
            f"{split.name}: column {task.label!r} holds {column.type}, not answers: "
            "{text: [...], answer_start: [...]}"
        )
    split.refuse(pc.is_null(column).to_numpy(zero_copy_only=False), f"column {task.label!r} is missing")
    texts, starts = (pc.struct_field(column, name) for name in ("text", "answer_start"))
    lengths = [pc.fill_null(pc.list_value_length(part), -1).to_numpy() for part in (texts, starts)]
    split.refuse(lengths[0] != lengths[1], f"column {task.label!r}: text and answer_start differ in length")
    split.refuse(lengths[0] < 0, f"column {task.label!r} has no list of texts")
    owner = pc.list_parent_indices(texts).to_numpy()
    answers = Split(split.name, pa.table({}), lambda answer: split.place(int(owner[answer])))
    text = _text(answers, f"{task.label}.text", pa.chunked_array([pc.list_flatten(texts)]))
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths[0])]).astype(np.int32))
    flat = text.combine_chunks(), pc.list_flatten(starts).cast(pa.int32())
    lists = [pa.ListArray.from_arrays(offsets, values) for values in flat]
    return pa.chunked_array([pa.StructArray.from_arrays(lists, fields=list(ANSWERS))])


def _ids(split: Split, name: str) -> pa.ChunkedArray:
    """Return row ids as strings, each there once."""
    ids = _as_strings(split, name)
    split.refuse(pc.is_null(ids), f"column {name!r} is missing")
    codes = ids.combine_chunks().dictionary_encode().indices.to_numpy()
    first = np.full(codes.max(initial=-1) + 1, -1)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    repeated = first[codes] != np.arange(len(codes))
    split.refuse(
        repeated,
        lambda row: f"id {ids[row].as_py()!r} is there already, at {split.place(int(first[codes[row]]))}",
    )
    return ids


def _as_strings(split: Split, name: str) -> pa.ChunkedArray:
    """Write codes, names and ids as strings; whole floats (as pandas makes of codes with gaps) lose their point."""
    column = split.table[name]
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    if pa.types.is_floating(column.type):
        values = column.to_numpy()
        split.refuse(values != np.floor(values), f"column {name!r} is not a whole number")
        column = column.cast(pa.int64())
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.int8())
    if pa.types.is_nested(column.type) or pa.types.is_binary(column.type):
        raise UserError(f"{split.name}: column {name!r} holds {column.type}, not names or numbers")
    strings = column.cast(pa.string())
    _require_utf8(split, name, strings)
    return strings


def _update(digest: Any, values: pa.Array) -> None:
    """Feed an array without nulls: lengths, then contents; nested arrays part by part."""
    if pa.types.is_struct(values.type):
        for part in values.flatten():
            _update(digest, part)
    elif pa.types.is_list(values.type):
        digest.update(pc.list_value_length(values).to_numpy().astype("<i8").tobytes())
        _update(digest, values.flatten())
    elif pa.types.is_string(values.type):
        digest.update(pc.binary_length(values).to_numpy().astype("<i8").tobytes())
        _, offsets, content = values.buffers()
        ends = np.frombuffer(offsets, np.int32)[values.offset : values.offset + len(values) + 1]
        if content is not None and len(values):
            digest.update(memoryview(content)[ends[0] : ends[-1]])
    else:
        digest.update(values.to_numpy().tobytes())
