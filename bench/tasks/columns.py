"""Read the columns of a task from its rows and refuse, by row number, what cannot be encoded."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError, unknown
from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

UNLABELLED = -1  # what the hub's test splits hold in place of a label
LONGEST_ID = 200  # characters


def require_columns(task: Task, rows: Dataset, names: Iterable[str]) -> None:
    """Raise a UserError for the first column that the rows do not have, or if there are no rows."""
    for name in names:
        if name not in rows.column_names:
            raise unknown("column", name, rows.column_names, where=f"rows of task {task.name!r}")
    if len(rows) == 0:
        raise UserError(f"task {task.name!r}: the split has no rows")


def texts(task: Task, rows: Dataset, column: str, start: int = 0, stop: int | None = None) -> list[str]:
    """Return the texts of a column from row ``start`` up to ``stop``.

    Raises:
        UserError: For the first row whose text is missing, not text, or not valid UTF-8.
    """
    part = rows.select_columns([column])
    try:
        values: list[Any] = part[start:stop][column]
    except UnicodeDecodeError:
        broken = next(row for row in range(start, stop or len(rows)) if not _decodes(part, row))
        raise UserError(f"task {task.name!r}: row {broken}, column {column!r} is not valid UTF-8") from None
    for row, value in enumerate(values, start):
        if not isinstance(value, str):
            raise UserError(
                f"task {task.name!r}: row {row}, column {column!r} holds {value!r} in place of text"
            )
    return values


def row_ids(task: Task, rows: Dataset) -> NDArray[np.str_]:
    """Return the id of each row, the row number where the task has no id column.

    Raises:
        UserError: Where two rows have the same id, or an id is missing.
    """
    if task.id is None:
        return np.arange(len(rows)).astype(np.str_)
    seen: dict[str, int] = {}
    for row, value in enumerate(rows.select_columns([task.id])[:][task.id]):
        if value is None or len(str(value)) > LONGEST_ID:
            raise UserError(f"task {task.name!r}: row {row} has no usable id in column {task.id!r}")
        first = seen.setdefault(str(value), row)
        if first != row:
            raise UserError(f"task {task.name!r}: rows {first} and {row} have the same {task.id} {value!r}")
    return np.array(list(seen), dtype=np.str_)


def labels(task: Task, rows: Dataset) -> NDArray[Any] | None:
    """Return the label of each row: int64 codes, float32 for regression; None where no row has one.

    Raises:
        UserError: For the first row whose label is missing or impossible, where others have one.
    """
    if task.label not in rows.column_names:
        return None
    values: Sequence[Any] = rows.select_columns([task.label])[:][task.label]
    if all(value is None or value == UNLABELLED for value in values):
        return None
    possible = "a finite number" if task.head == "regression" else f"a code from 0 to {task.num_labels - 1}"
    for row, value in enumerate(values):
        if not _is_possible(task, value):
            raise UserError(f"task {task.name!r}: row {row} has the label {value!r}; it must be {possible}")
    return np.array(values, dtype=np.float32 if task.head == "regression" else np.int64)


def _is_possible(task: Task, value: Any) -> bool:
    if task.head == "regression":
        return isinstance(value, int | float) and math.isfinite(value)
    return isinstance(value, int) and 0 <= value < task.num_labels


def _decodes(rows: Dataset, row: int) -> bool:
    try:
        rows[row]
    except UnicodeDecodeError:
        return False
    return True
