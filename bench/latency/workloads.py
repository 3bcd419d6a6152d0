"""Say what one timed call processes, and build it from real tokens of the task.

Uniformly random token ids would balance a router that real text does not: nothing is random but the choice of rows.
Fixed lengths hold no padding: a padded batch would time the padding policy, not the model.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bench.errors import UserError
from bench.seeds import derive

if TYPE_CHECKING:
    from bench.encoded import Encoded

SPECIAL_TOKENS = 3
SHORTEST = 8  # [CLS], two or more words, [SEP], two or more words, [SEP]
ROWS_AT_ONCE = 256
INPUTS = ("input_ids", "attention_mask", "token_type_ids")

Inputs = dict[str, Tensor]


@dataclass(frozen=True)
class Workload:
    """One point of the batch × length grid.

    Attributes:
        batch_size: Rows of a call.
        length: Tokens of every row, without padding; None: rows at their real lengths, padded to the batch's longest.
    """

    batch_size: int
    length: int | None

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise UserError(f"workload {self.name!r}: the batch size is at least 1")
        if self.length is not None and self.length < SHORTEST:
            raise UserError(f"workload {self.name!r}: the length is at least {SHORTEST} tokens, or 'real'")

    @property
    def name(self) -> str:
        """What tables and the command line call it: ``8x128``, or ``8xreal``."""
        return f"{self.batch_size}x{'real' if self.length is None else self.length}"

    @classmethod
    def parse(cls, name: str) -> Workload:
        """Read a name.

        Raises:
            UserError: If it is not one.
        """
        match = re.fullmatch(r"(\d+)x(\d+|real)", name)
        if match is None:
            raise UserError(f"unknown workload {name!r}; write BATCHxLENGTH such as '8x128', or '8xreal'")
        batch_size, length = match.groups()
        return cls(int(batch_size), None if length == "real" else int(length))


def streams(
    workloads: Iterable[Workload], encoded: Encoded, seed: int, *, batches: int = 8
) -> dict[str, list[Inputs]]:
    """Build the batches of every workload, the same for a seed whatever else is asked for.

    Args:
        workloads: What to build.
        encoded: Tokenised rows of the validation split.
        seed: Decides the choice and order of the rows.
        batches: Different batches of each workload; timed calls go through them in turn.

    Returns:
        Name of the workload -> batches of ``[batch, length]`` tensors, without labels.

    Raises:
        UserError: If the rows hold no words.
    """
    if encoded.lengths.max(initial=0) <= SPECIAL_TOKENS:
        raise UserError("the validation split has no words to time with")
    built = {}
    for workload in workloads:
        rng = np.random.default_rng(derive(seed, "workload", workload.name))
        order = _shuffled(len(encoded.lengths), rng)
        if workload.length is None:
            built[workload.name] = [_real(encoded, order, workload.batch_size) for _ in range(batches)]
        else:
            rows = _rows(encoded, order)
            built[workload.name] = [
                _exact(rows, workload.batch_size, workload.length) for _ in range(batches)
            ]
    return built


def _shuffled(rows: int, rng: np.random.Generator) -> Iterator[int]:
    """Yield row numbers without end, every row once before any comes again."""
    while True:
        yield from rng.permutation(rows).tolist()


def _real(encoded: Encoded, order: Iterator[int], batch_size: int) -> Inputs:
    indices = np.fromiter(islice(order, batch_size), dtype=np.int64)
    batch = encoded.batch(indices, int(encoded.lengths[indices].max()))
    return {name: batch[name] for name in INPUTS if name in batch}


@dataclass(frozen=True)
class _Row:
    """Tokens of one row; ``second`` is empty for single sentences."""

    cls: int
    sep: int
    first: list[int]
    second: list[int]


def _rows(encoded: Encoded, order: Iterator[int]) -> Iterator[_Row]:
    while True:
        indices = np.fromiter(islice(order, ROWS_AT_ONCE), dtype=np.int64)
        lengths = encoded.lengths[indices]
        batch = encoded.batch(indices, int(lengths.max()))
        for ids, types, length in zip(
            batch["input_ids"].tolist(), batch["token_type_ids"].tolist(), lengths.tolist(), strict=True
        ):
            split = length - sum(types[:length])
            # [CLS] first [SEP], then second [SEP] where there is a second
            yield _Row(ids[0], ids[length - 1], ids[1 : split - 1], ids[split : length - 1])


def _exact(rows: Iterator[_Row], batch_size: int, length: int) -> Inputs:
    packed = [_pack(rows, length) for _ in range(batch_size)]
    ids = torch.tensor([ids for ids, _ in packed])
    types = torch.tensor([types for _, types in packed])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": types}


def _pack(rows: Iterator[_Row], length: int) -> tuple[list[int], list[int]]:
    """Join rows until they fill ``length`` tokens, cut the rest; return token ids and token types."""
    first: list[int] = []
    second: list[int] = []
    while True:
        row = next(rows)
        first += row.first
        second += row.second
        room = length - (SPECIAL_TOKENS if second else SPECIAL_TOKENS - 1)
        if len(first) + len(second) >= room:
            break
    # as truncation does: the longer side gives way
    first = first[: max(room // 2, room - len(second))]
    second = second[: room - len(first)]
    ids = [row.cls, *first, row.sep, *second, *([row.sep] if second else [])]
    types = [0] * (len(first) + 2) + [1] * (length - len(first) - 2)
    return ids, types
