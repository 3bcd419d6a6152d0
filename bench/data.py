"""Rows as tokens: encoded once, kept as flat arrays, put together into batches on the device.

A split's tokens lie end to end in a few flat arrays, on disk memory-mapped, on a GPU resident. A batch is cut out of
them by indexing: no Python loop over rows, no padding on disk, no host synchronisation.
"""

from __future__ import annotations

import inspect
import logging
import os
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock
from numpy.typing import NDArray
from torch import Tensor

from bench.errors import UserError
from bench.tasks.heads import HEADS, Arrays, require_known_scores
from bench.tasks.task import Task
from results.record import digest

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FORMAT = 1  # of the arrays and how they are made; part of the cache key
TARGETS = ("labels", "start_positions", "end_positions")

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Encoded:
    """One split as tokens.

    A feature is one sequence. A row has one; for extractive QA one or more, in order, or none if left out of training.

    Attributes:
        lengths: Tokens of each feature, ``[features]``.
        rows: Row of each feature, ``[features]``, ascending.
        ids: Id of each row, ``[rows]``.
        spans: First and one past the last character of the context that a token covers, ``[tokens, 2]``; (0, 0) for
            tokens of the question and special tokens. None for the other heads.
        tensors: On the device: ``input_ids`` and ``token_type_ids`` ``[tokens]``, ``starts`` ``[features]`` (position
            of a feature's first token), ``sizes`` ``[features]`` (its tokens), and the targets ``[features]``, if any.
        pad_token_id: What fills a batch up.
    """

    lengths: NDArray[np.int32]
    rows: NDArray[np.int32]
    ids: NDArray[np.str_]
    spans: NDArray[np.int32] | None
    tensors: dict[str, Tensor]
    pad_token_id: int

    @classmethod
    def from_arrays(cls, arrays: Arrays, pad_token_id: int) -> Encoded:
        """Wrap what a head encoded; nothing is copied."""
        lengths = arrays["lengths"]
        flat = ("input_ids", "token_type_ids", *TARGETS)
        tensors = {name: torch.from_numpy(arrays[name]) for name in flat if name in arrays}
        tensors["starts"] = torch.from_numpy(np.cumsum(lengths, dtype=np.int64) - lengths)
        tensors["sizes"] = torch.from_numpy(lengths)
        return cls(lengths, arrays["rows"], arrays["ids"], arrays.get("spans"), tensors, pad_token_id)

    def excluded(self) -> list[str]:
        """Return the ids of rows without a feature: those left out of training."""
        ids: list[str] = np.delete(self.ids, self.rows).tolist()
        return ids

    def targets(self, name: str) -> NDArray[Any] | None:
        """Return ``labels``, ``start_positions`` or ``end_positions`` of every feature, if there are any."""
        return self.tensors[name].cpu().numpy() if name in self.tensors else None

    def row_ids(self, indices: NDArray[np.int64]) -> list[str]:
        """Return the ids of the rows that features belong to."""
        ids: list[str] = self.ids[self.rows[indices]].tolist()
        return ids

    def to(self, device: torch.device | str) -> Encoded:
        """Return the split with its tensors on a device."""
        return replace(self, tensors={name: tensor.to(device) for name, tensor in self.tensors.items()})

    def batch(self, indices: NDArray[np.int64], length: int) -> dict[str, Tensor]:
        """Put features together, padded to ``length`` tokens, on the device of the tensors.

        Returns:
            ``input_ids``, ``attention_mask`` and ``token_type_ids`` ``[batch, length]``, and the targets ``[batch]``.

        Raises:
            ValueError: If a feature is longer than ``length``.
        """
        longest = int(self.lengths[indices].max())
        if longest > length:
            raise ValueError(f"a feature of {longest} tokens does not fit a batch of length {length}")
        tokens, starts, sizes = (self.tensors[name] for name in ("input_ids", "starts", "sizes"))
        chosen = _send(indices, tokens.device)
        columns = torch.arange(length, device=tokens.device)
        real = columns < sizes[chosen, None]
        positions = (starts[chosen, None] + columns).clamp_(max=len(tokens) - 1)
        batch = {
            "input_ids": tokens[positions].long().masked_fill_(~real, self.pad_token_id),
            "attention_mask": real.long(),
            "token_type_ids": self.tensors["token_type_ids"][positions].long().masked_fill_(~real, 0),
        }
        return batch | {name: self.tensors[name][chosen] for name in TARGETS if name in self.tensors}


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


def _send(indices: NDArray[np.int64], device: torch.device) -> Tensor:
    """Copy indices to the device without waiting for it."""
    chosen = torch.from_numpy(indices)
    return chosen.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else chosen.to(device)


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
