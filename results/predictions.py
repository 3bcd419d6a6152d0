"""What a cell said about every row of its evaluation splits, read when it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from results.store import ROWS

SHARED = b"rows"  # key of the metadata of compact predictions: name of the file under ``rows/``


@dataclass(frozen=True)
class Predictions:
    """One split of one cell.

    Attributes:
        row_ids: Names of the rows, ``[rows]``.
        labels: Gold codes or values, ``[rows]``; None for extractive QA.
        logits: ``[rows, labels]``; None for extractive QA.
        row_scores: Score -> its value on each row, ``[rows]``, where it is a mean over rows (F1 of an answer, say).
    """

    row_ids: NDArray[Any]
    labels: NDArray[Any] | None
    logits: NDArray[np.float64] | None
    row_scores: Mapping[str, NDArray[np.float64]]


def read_predictions(path: Path) -> dict[str, Predictions]:
    """Read the predictions of a cell, by split.

    Raises:
        ValueError: Where the file is not one of predictions.
    """
    import pyarrow.compute as pc

    table = read_table(path)
    if not {"split", "row_id"} <= set(table.column_names):
        raise ValueError(f"{path}: not predictions; it has the columns {table.column_names}")
    splits = pc.unique(table["split"].cast("string")).to_pylist()
    if len(splits) == 1:  # the usual case, in half the time
        return {splits[0]: _predictions(table.combine_chunks())}
    return {
        split: _predictions(table.filter(pc.equal(table["split"], split)).combine_chunks())
        for split in splits
    }


def read_table(path: Path) -> Any:
    """Read a file of predictions; a compact one takes its rows from the file that it shares with others.

    Raises:
        ValueError: Where one of them cannot be read.
    """
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(path).read(use_threads=False)  # small: no need of more machinery
        if shared := (table.schema.metadata or {}).get(SHARED):
            rows = pq.ParquetFile(path.parent / ROWS / f"{shared.decode()}.parquet").read(use_threads=False)
            for name in reversed(rows.column_names):
                table = table.add_column(0, name, rows[name])
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: not readable as Parquet ({error})") from error
    return table


def _predictions(table: Any) -> Predictions:
    known = table.column_names
    labels = table["label"] if "label" in known and table["label"].null_count == 0 else None
    logits = None
    if "logits" in known:
        flat = np.asarray(table["logits"].chunk(0).flatten().to_numpy(zero_copy_only=False), dtype=np.float64)
        logits = flat.reshape(len(table), -1)
    numbers = {
        name for name in known if str(table.schema.field(name).type) in {"float", "double", "halffloat"}
    }
    return Predictions(
        row_ids=table["row_id"].to_numpy(),
        labels=None if labels is None else labels.to_numpy(),
        logits=logits,
        row_scores={
            name: np.asarray(table[name].to_numpy(), dtype=np.float64) for name in sorted(numbers - {"label"})
        },
    )
