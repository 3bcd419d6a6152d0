"""Rows as tokens: encoded once, kept as flat arrays, put together into batches on the device.

A split's tokens lie end to end in a few flat arrays, on disk memory-mapped, on a GPU resident. A batch is cut out of
them by indexing: no Python loop over rows, no padding on disk, no host synchronisation.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from bench.encoded import Encoded
from bench.errors import UserError
from bench.tasks.arrays import Arrays
from bench.tasks.heads import HEADS, require_known_scores
from bench.tasks.task import Task
from results.record import digest

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1  # of the arrays and how they are made; part of the cache key

log = logging.getLogger(__name__)


def encode(
    task: Task,
    rows: Dataset,
    tokenizer: PreTrainedTokenizerBase,
    *,
    cache: Path | None,
    key: str,
    training: bool = False,
) -> Encoded:
    """Tokenise a split, or read it from the cache.

    Safe with concurrent processes: one encodes, the others wait and read; a killed one leaves nothing that is read.

    Args:
        task: Names the columns, the head and the longest sequence.
        rows: One split, checked (``bench.rows``).
        tokenizer: A fast one; neither its padding nor its truncation matters, and it is left as it is.
        cache: Folder of encoded splits; None keeps this one in memory.
        key: Identity of the rows: fingerprint of the data and role of the split.
        training: Rows whose answer is not in its context are left out, with a warning.

    Raises:
        UserError: If the task asks for unknown scores, there are no rows to encode, or the tokenizer will not do.
    """
    require_known_scores(task)
    if len(rows) == 0:
        raise UserError(f"task {task.name!r}: there are no rows to encode")
    plain, pad_token_id = _plain(tokenizer), _pad_token_id(tokenizer)
    head = HEADS[task.head]
    if cache is None:
        arrays = head.encode(task, rows, plain, training=training)
        return _report(task, Encoded.from_arrays(arrays, pad_token_id))
    specification = task.model_dump(
        mode="json", include={"head", "text", "label", "id", "labels", "max_length"}
    )
    folder = cache / digest([FORMAT, key, len(rows), training, specification, plain.to_str()])
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_suffix(".lock")):
        mapped = _read(folder)
        arrays = mapped or head.encode(task, rows, plain, training=training)
        if mapped is None:
            _write(folder, arrays)
    return _report(task, Encoded.from_arrays(arrays, pad_token_id))


def model_inputs(model: PreTrainedModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """Choose the part of a batch that the model's forward takes."""
    taken = inspect.signature(model.forward).parameters
    return {name: tensor for name, tensor in batch.items() if name in taken}


def _report(task: Task, encoded: Encoded) -> Encoded:
    if excluded := encoded.excluded():
        log.warning(
            "task %s: %d of %d training rows are left out, no answer is in its context at its offset: %s%s",
            task.name,
            len(excluded),
            len(encoded.ids),
            ", ".join(excluded[:5]),
            ", …" if len(excluded) > 5 else "",
        )
    return encoded


def _plain(tokenizer: PreTrainedTokenizerBase) -> Tokenizer:
    """Copy the tokenizer behind a fast one, without padding and truncation."""
    from tokenizers import Tokenizer

    if not tokenizer.is_fast:
        raise UserError(
            f"{type(tokenizer).__name__} is not a fast tokenizer; the checkpoint needs a tokenizer.json"
        )
    plain = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    plain.no_padding()
    plain.no_truncation()
    return plain


def _pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    if tokenizer.pad_token_id is None:
        raise UserError("the tokenizer has no padding token")
    return int(tokenizer.pad_token_id)


def _write(folder: Path, arrays: Arrays) -> None:
    """Store the arrays under their names; the folder appears whole or not at all."""
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    for name, array in arrays.items():
        with (partial / f"{name}.npy").open("wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
    partial.rename(folder)


def _read(folder: Path) -> Arrays | None:
    """Map the arrays into memory; a damaged folder is removed and counts as none."""
    if not folder.exists():
        return None
    try:
        return {file.stem: _map(file) for file in folder.glob("*.npy")}
    except (ValueError, OSError, EOFError):
        log.warning("encoded rows in %s are damaged; encoding again", folder)
        shutil.rmtree(folder)
        return None


def _map(file: Path) -> NDArray[Any]:
    """Map an array copy-on-write, since torch wants memory that it may write to; the file stays as it is."""
    return np.asarray(
        np.load(file, mmap_mode="c", allow_pickle=False)
    )  # indexing the memmap class itself is slow
