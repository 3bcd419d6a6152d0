"""Features of classification and regression: one sequence of tokens a row, from one or two texts."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer

    from bench.tasks.arrays import Arrays

ROWS_AT_ONCE = 8192


def encode_sequences(task: Task, rows: Dataset, tokenizer: Tokenizer) -> Arrays:
    """Tokenise every row and lay the tokens end to end.

    Of a pair that is too long, the longer text gives way, token by token.

    Args:
        task: Names the columns and the longest sequence.
        rows: One split, checked (``bench.rows``).
        tokenizer: Without padding or truncation of its own.

    Returns:
        ``input_ids`` and ``token_type_ids`` ``[tokens]``, ``lengths`` and ``rows`` ``[features]``, ``ids`` ``[rows]``,
        and ``labels`` ``[features]`` where there are any.
    """
    tokenizer.enable_truncation(task.max_length, strategy="longest_first")
    texts = rows.select_columns(list(task.text))
    tokens, types, lengths = [], [], []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        part = texts[start : start + ROWS_AT_ONCE]
        columns = [part[name] for name in task.text]
        encodings = tokenizer.encode_batch_fast(
            columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))
        )
        lengths.append(np.array([len(encoding) for encoding in encodings], dtype=np.int32))
        tokens.append(
            np.fromiter(chain.from_iterable(encoding.ids for encoding in encodings), dtype=np.int32)
        )
        types.append(
            np.fromiter(chain.from_iterable(encoding.type_ids for encoding in encodings), dtype=np.int8)
        )
    arrays: Arrays = {
        "input_ids": np.concatenate(tokens),
        "token_type_ids": np.concatenate(types),
        "lengths": np.concatenate(lengths),
        "rows": np.arange(len(rows), dtype=np.int32),
        "ids": row_ids(task, rows),
    }
    if task.label in rows.column_names:
        arrays["labels"] = np.array(
            rows[task.label][:], dtype=np.float32 if task.head == "regression" else np.int64
        )
    return arrays


def row_ids(task: Task, rows: Dataset) -> NDArray[np.str_]:
    """Return the id of each row, the row number where the task has no id column."""
    return np.array(range(len(rows)) if task.id is None else rows[task.id][:]).astype(np.str_)
