"""From a model to logits, from logits to scores, and logits kept per row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.batching import evaluation_batches
from bench.data import model_inputs
from bench.encoded import TARGETS, Encoded
from bench.tasks.heads import HEADS
from bench.tasks.task import Task
from results.store import write_atomically

if TYPE_CHECKING:
    import pyarrow as pa
    from datasets import Dataset
    from transformers import PreTrainedModel

    from bench.tasks.arrays import Logits


def predict(model: PreTrainedModel, encoded: Encoded, *, batch_size: int, precision: str) -> Logits:
    """Run the model over every feature in eval mode and without gradients, and leave its modes as they were.

    Args:
        model: On the device of the encoded tensors.
        encoded: One split.
        batch_size: Features of a batch.
        precision: ``bf16`` runs under autocast, ``fp32`` does not.

    Returns:
        float32 logits in the order of the features, ``[features, labels]``; for extractive QA those of starts and of
        ends, each ``[features, longest length]``, minus infinity at padding.

    Raises:
        FloatingPointError: Naming rows whose logits are not finite.
    """
    sides: list[list[torch.Tensor]] = []
    order = []
    with _eval_mode(model), torch.inference_mode(), _autocast(encoded, precision):
        for batch in evaluation_batches(encoded.lengths, batch_size):
            tensors = encoded.batch(batch.indices, batch.length)
            inputs = {name: tensor for name, tensor in tensors.items() if name not in TARGETS}
            sides.append(_logits(model(**model_inputs(model, inputs))))
            order.append(batch.indices)
    return gather(encoded, sides, np.concatenate(order))


def gather(encoded: Encoded, batches: Sequence[Sequence[torch.Tensor]], indices: NDArray[np.int64]) -> Logits:
    """Put the logits of batches together, in the order of the features, as ``predict`` returns them.

    Args:
        encoded: The split.
        batches: For each batch its logits ``[batch, labels]``, or those of starts and of ends ``[batch, length]``.
        indices: The feature of each row of the batches.

    Raises:
        FloatingPointError: Naming rows whose logits are not finite.
    """
    arrays = [_in_order(list(side), indices) for side in zip(*batches, strict=True)]
    if len(arrays) == 1:
        _require_finite(encoded, np.isfinite(arrays[0]))
        return arrays[0]
    starts, ends = (side[:, : encoded.lengths.max()] for side in arrays)
    padding = ~_real(encoded)
    _require_finite(encoded, (np.isfinite(starts) & np.isfinite(ends)) | padding)
    starts[padding] = ends[padding] = -np.inf
    return starts, ends


def score(task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
    """Compute the task's scores from the logits of one split, in the order of ``task.scores``."""
    return HEADS[task.head].score(task, rows, encoded, logits)


def row_scores(task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, NDArray[Any]]:
    """Compute scores of single rows ``[rows]`` that labels and logits do not tell: those of extractive QA."""
    return HEADS[task.head].row_scores(task, rows, encoded, logits)


def save_predictions(
    path: Path,
    encoded: Mapping[str, Encoded],
    logits: Mapping[str, Logits],
    row_scores: Mapping[str, Mapping[str, NDArray[Any]]] | None = None,
) -> None:
    """Keep the logits of a cell's evaluation splits: Parquet, half precision, row ids, no text.

    One line a row, with columns ``split`` (its role), ``row_id`` and, for classification and regression, ``label``
    (where there is one) and ``logits`` (a list); for extractive QA ``start_logits`` and ``end_logits`` (a list for each
    of the row's features, without padding). Row scores stand in columns of their names.

    Args:
        path: The file; it appears whole or not at all.
        encoded: Role -> split; roles without logits are passed over.
        logits: Role -> what ``predict`` returned.
        row_scores: Role -> what ``row_scores`` returned.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    scores = row_scores or {}
    tables = [_table(role, encoded[role], values, scores.get(role, {})) for role, values in logits.items()]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.concat_tables(tables), sink, compression="zstd")
    write_atomically(path, sink.getvalue().to_pybytes())


def load_predictions(path: Path, encoded: Mapping[str, Encoded]) -> dict[str, Logits]:
    """Read back the logits that ``save_predictions`` kept, as ``predict`` returned them, to half precision.

    Raises:
        ValueError: If the rows are not those of the encoded splits.
    """
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    table = pq.read_table(path)
    loaded: dict[str, Logits] = {}
    for role in pc.unique(table["split"]).to_pylist():
        part = table.filter(pc.equal(table["split"], role)).combine_chunks()
        if part["row_id"].to_pylist() != encoded[role].ids.tolist():
            raise ValueError(f"{path}: the rows of {role!r} are not those of the encoded split")
        if "logits" in part.column_names:
            values = part["logits"].chunk(0).flatten().to_numpy().astype(np.float32)
            loaded[role] = values.reshape(len(part), -1)
        else:
            loaded[role] = (
                _padded(encoded[role], part["start_logits"].chunk(0)),
                _padded(encoded[role], part["end_logits"].chunk(0)),
            )
    return loaded


@contextmanager
def _eval_mode(model: PreTrainedModel) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def _autocast(encoded: Encoded, precision: str) -> AbstractContextManager[object]:
    if precision == "bf16":
        return torch.autocast(encoded.tensors["input_ids"].device.type, dtype=torch.bfloat16)
    return nullcontext()


def _logits(outputs: Any) -> list[torch.Tensor]:
    """Return the model's logits, of starts and of ends for extractive QA."""
    return [outputs.logits] if "logits" in outputs else [outputs.start_logits, outputs.end_logits]


def _in_order(parts: list[torch.Tensor], indices: NDArray[np.int64]) -> NDArray[np.float32]:
    """Put the batches' logits, whose widths may differ, into one array in the order of the features."""
    logits = np.zeros((len(indices), max(part.shape[1] for part in parts)), dtype=np.float32)
    start = 0
    for part in parts:
        logits[indices[start : start + len(part)], : part.shape[1]] = part.float().cpu().numpy()
        start += len(part)
    return logits


def _real(encoded: Encoded) -> NDArray[np.bool_]:
    """Mark the tokens that are not padding, ``[features, longest length]``."""
    return np.arange(encoded.lengths.max()) < encoded.lengths[:, None]


def _require_finite(encoded: Encoded, finite: NDArray[np.bool_]) -> None:
    if not finite.all():
        broken = np.flatnonzero(~finite.all(axis=1))
        ids = encoded.row_ids(broken)
        raise FloatingPointError(
            f"logits of {len(ids)} features are not finite; rows: {', '.join(ids[:5])}, …"
        )


def _table(role: str, encoded: Encoded, logits: Logits, scores: Mapping[str, NDArray[Any]]) -> pa.Table:
    import pyarrow as pa

    ids = encoded.ids.tolist()
    columns: dict[str, Any] = {
        "split": pa.array([role] * len(ids)).dictionary_encode(),
        "row_id": pa.array(ids),
    }
    if isinstance(logits, tuple):
        columns["start_logits"], columns["end_logits"] = (_nested(encoded, side) for side in logits)
    else:
        labels = encoded.targets("labels")
        columns["label"] = pa.nulls(len(ids)) if labels is None else pa.array(labels)
        columns["logits"] = pa.FixedSizeListArray.from_arrays(_half(logits).ravel(), logits.shape[1])
    return pa.table(columns | {name: values.astype(np.float32) for name, values in scores.items()})


def _nested(encoded: Encoded, logits: NDArray[np.float32]) -> pa.ListArray:
    """Lay out ``[rows][features of the row][tokens]``."""
    import pyarrow as pa

    per_row = np.bincount(encoded.rows, minlength=len(encoded.ids))
    features = pa.ListArray.from_arrays(_offsets(encoded.lengths), _half(logits[_real(encoded)]))
    return pa.ListArray.from_arrays(_offsets(per_row), features)


def _padded(encoded: Encoded, nested: pa.ListArray) -> NDArray[np.float32]:
    real = _real(encoded)
    logits = np.full(real.shape, -np.inf, dtype=np.float32)
    logits[real] = nested.flatten().flatten().to_numpy()
    return logits


def _half(logits: NDArray[np.float32]) -> NDArray[np.float16]:
    limit = np.finfo(np.float16).max
    return logits.clip(-limit, limit).astype(np.float16)


def _offsets(sizes: NDArray[Any]) -> NDArray[np.int32]:
    return np.concatenate([[0], np.cumsum(sizes)]).astype(np.int32)
