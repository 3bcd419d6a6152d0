from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

CLS, SEP = 101, 102


@dataclass
class Rows:
    """Tokenised rows kept as lists, read the way the harness reads its memory-mapped ones."""

    ids: list[list[int]]
    types: list[list[int]]

    @property
    def lengths(self) -> NDArray[np.int32]:
        return np.array([len(row) for row in self.ids], dtype=np.int32)

    def batch(self, indices: NDArray[np.int64], length: int) -> dict[str, Tensor]:
        def padded(rows: list[list[int]]) -> Tensor:
            return torch.tensor([rows[i][:length] + [0] * (length - len(rows[i])) for i in indices])

        mask = [[1] * len(row) for row in self.ids]
        return {
            "input_ids": padded(self.ids),
            "attention_mask": padded(mask),
            "token_type_ids": padded(self.types),
            "labels": torch.zeros(len(indices), dtype=torch.long),
        }


@pytest.fixture
def sentences() -> Rows:
    """Rows of 1 to 20 words; no word occurs in two rows."""
    words = iter(range(1000, 9999))
    ids = [[CLS, *(next(words) for _ in range(count)), SEP] for count in [3, 20, 1, 7, 12, 5, 9, 2, 16, 11]]
    return Rows(ids, [[0] * len(row) for row in ids])


@pytest.fixture
def pairs() -> Rows:
    """Pairs of sentences: words of the first are 1000 to 1999, of the second 2000 to 2999."""
    rng = np.random.default_rng(0)
    ids, types = [], []
    for _ in range(30):
        first, second = (
            rng.integers(1000, 2000, rng.integers(1, 15)),
            rng.integers(2000, 3000, rng.integers(1, 40)),
        )
        ids.append([CLS, *first.tolist(), SEP, *second.tolist(), SEP])
        types.append([0] * (len(first) + 2) + [1] * (len(second) + 1))
    return Rows(ids, types)
