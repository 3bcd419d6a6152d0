"""Features of classification and regression: one sequence of tokens a row, from one or two texts."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import numpy as np

from bench.errors import UserError
from bench.tasks.columns import labels, require_columns, row_ids, texts
from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer

    from bench.tasks.heads import Arrays

ROWS_AT_ONCE = 8192


def encode_sequences(task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
    """Tokenise every row and lay the tokens end to end.

    Of a pair that is too long, the longer text gives way, token by token.

    Args:
        task: Names the columns and the longest sequence.
        rows: One split.
        tokenizer: Without padding or truncation of its own.
        training: Rows without labels are refused.

    Returns:
        ``input_ids`` and ``token_type_ids`` ``[tokens]``, ``lengths`` and ``rows`` ``[features]``, ``ids`` ``[rows]``,
        and ``labels`` ``[features]`` where there are any.
    """
    require_columns(task, rows, task.text)
    targets = labels(task, rows)
    if training and targets is None:
        raise UserError(f"task {task.name!r}: the training rows have no labels in column {task.label!r}")
    tokenizer.enable_truncation(task.max_length, strategy="longest_first")
    tokens, types, lengths = [], [], []
    for start in range(0, len(rows), ROWS_AT_ONCE):
        columns = [texts(task, rows, name, start, start + ROWS_AT_ONCE) for name in task.text]
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
    return arrays if targets is None else arrays | {"labels": targets}
