"""Make a run folder small enough to be committed; reports read the same from it.

- Records are packed; the numbers of training curves have four digits, timings tenths of a microsecond.
- Splits, row ids and labels stand once for all cells that answered the same rows.
- Logits of classes are differences from the row's largest, with 7 significant bits: choices and their ties stay, and
  probabilities to 0.002.
- Logits of extractive QA are left out; the scores of each row stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from results.predictions import SHARED, read_table
from results.record import CellRecord, LatencyRecord, digest
from results.store import ROWS, AnyRecord, RunFolder, merge, write_atomically

if TYPE_CHECKING:
    import pyarrow as pa

    from results.record import CurvePoint, Repeat

DIGITS = 4  # of numbers that are only drawn
DECIMALS = 4  # of milliseconds
BITS = 7  # of differences between logits
OF_ROWS = ("split", "row_id", "label")
LEFT_OUT = ("start_logits", "end_logits")


def merge_compactly(sources: Iterable[Path], out: Path) -> int:
    """Join run folders into a compact one, without checkpoints.

    Returns:
        Number of records in the joined folder.
    """
    count = merge(sources, out, models=False)
    folder = RunFolder(out)
    for record in folder.records():
        folder.pack(_rounded(record))
        predictions = folder.predictions_file(record.id)
        if predictions.exists():
            _compact(predictions)
    return count


def _rounded(record: AnyRecord) -> AnyRecord:
    if isinstance(record, LatencyRecord):
        return record.model_copy(update={"repeats": [_rounded_repeat(repeat) for repeat in record.repeats]})
    if not isinstance(record, CellRecord) or record.training is None:
        return record
    stages = [
        stage.model_copy(update={"curve": [_rounded_point(point) for point in stage.curve]})
        for stage in record.training.stages
    ]
    return record.model_copy(update={"training": record.training.model_copy(update={"stages": stages})})


def _rounded_repeat(repeat: Repeat) -> Repeat:
    sides = ("baseline_ms", "candidate_ms")
    return repeat.model_copy(
        update={side: [round(call, DECIMALS) for call in getattr(repeat, side)] for side in sides}
    )


def _rounded_point(point: CurvePoint) -> CurvePoint:
    terms = {name: _round(value) for name, value in point.terms.items()}
    return point.model_copy(update={"loss": _round(point.loss), "terms": terms})


def _round(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _compact(file: Path) -> None:
    """Write predictions again, in less space; those that are compact stay as they are."""
    import pyarrow.parquet as pq

    if SHARED in (pq.read_schema(file).metadata or {}):
        return
    table = read_table(file)
    rows = table.select([name for name in OF_ROWS if name in table.column_names])
    name = digest(rows.to_pydict())
    shared = file.parent / ROWS / f"{name}.parquet"
    if not shared.exists():
        _write(rows, shared)
    answers = table.drop_columns(
        [*rows.column_names, *(key for key in LEFT_OUT if key in table.column_names)]
    )
    if "logits" in answers.column_names:
        place = answers.column_names.index("logits")
        answers = answers.set_column(place, "logits", _shifted(answers["logits"].combine_chunks()))
    _write(answers.replace_schema_metadata({SHARED: name.encode()}), file)


def _shifted(logits: pa.FixedSizeListArray) -> pa.FixedSizeListArray:
    """Subtract the largest logit of each row; a difference is 0 only where two are equal."""
    import pyarrow as pa

    width = logits.type.list_size
    values = logits.flatten().to_numpy().reshape(-1, width)
    if width > 1:  # a regression's one is its answer
        wide = values.astype(np.float32)
        fraction, exponent = np.frexp(wide - wide.max(axis=1, keepdims=True))
        rounded = np.ldexp(np.round(fraction * 2**BITS) / 2**BITS, exponent)
        values = np.maximum(rounded, np.finfo(np.float16).min).astype(np.float16)
    return pa.FixedSizeListArray.from_arrays(values.ravel(), width)


def _write(table: Any, file: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    repeated = [name for name in table.column_names if name != "logits"]  # a dictionary of fp16 only costs
    pq.write_table(table, sink, compression="zstd", compression_level=19, use_dictionary=repeated)
    write_atomically(file, sink.getvalue().to_pybytes())
