"""Rows and batches made in code."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch

from bench.encoded import Encoded
from bench.toys import VOCABULARY

CLS, SEP = 101, 102


@dataclass
class Rows:
    """Token ids and types of some rows, to be read as lists and as the harness keeps them."""

    ids: list[list[int]]
    types: list[list[int]]

    @property
    def encoded(self) -> Encoded:
        return Encoded.from_arrays(
            {
                "input_ids": np.fromiter(chain.from_iterable(self.ids), dtype=np.int32),
                "token_type_ids": np.fromiter(chain.from_iterable(self.types), dtype=np.int8),
                "lengths": np.array([len(row) for row in self.ids], dtype=np.int32),
                "rows": np.arange(len(self.ids), dtype=np.int32),
                "ids": np.arange(len(self.ids)).astype(str),
                "labels": np.zeros(len(self.ids), dtype=np.int64),
            },
            pad_token_id=0,
        )


def toy_inputs(batch_size: int, length: int, count: int = 2) -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(
        1, VOCABULARY, (count, batch_size, length), generator=torch.Generator().manual_seed(0)
    )
    zeros = torch.zeros(batch_size, length, dtype=torch.long)
    return [{"input_ids": ids[i], "attention_mask": zeros + 1, "token_type_ids": zeros} for i in range(count)]
