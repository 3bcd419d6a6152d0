"""A split as tokens: flat arrays, from which batches are cut by indexing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.tasks.arrays import Arrays

TARGETS = ("labels", "start_positions", "end_positions")


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
        return self.gather(self.send(indices, length), length)

    def send(self, indices: NDArray[np.int64], length: int) -> Tensor:
        """Copy the numbers of features to the device without waiting for it, ``[batch]``.

        Raises:
            ValueError: If one of them is longer than ``length``.
        """
        longest = int(self.lengths[indices].max())
        if longest > length:
            raise ValueError(f"a feature of {longest} tokens does not fit a batch of length {length}")
        chosen, device = torch.from_numpy(indices), self.tensors["starts"].device
        return (
            chosen.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else chosen.to(device)
        )

    def gather(self, chosen: Tensor, length: int) -> dict[str, Tensor]:
        """Do what ``batch`` does with numbers ``[batch]`` on the device, as a pure tensor function."""
        tokens, starts, sizes = (self.tensors[name] for name in ("input_ids", "starts", "sizes"))
        columns = torch.arange(length, device=tokens.device)
        real = columns < sizes[chosen, None]
        positions = (starts[chosen, None] + columns).clamp_(max=len(tokens) - 1)
        batch = {
            "input_ids": tokens[positions].long().masked_fill_(~real, self.pad_token_id),
            "attention_mask": real.long(),
            "token_type_ids": self.tensors["token_type_ids"][positions].long().masked_fill_(~real, 0),
        }
        return batch | {name: self.tensors[name][chosen] for name in TARGETS if name in self.tensors}
