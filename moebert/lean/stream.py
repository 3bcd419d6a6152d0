"""Tokens without padding: the rows of a batch one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor


class Layout(NamedTuple):
    """The padded batch that a stream was made of; nothing of it depends on a tensor's values once it is made.

    Attributes:
        batch: Rows.
        length: Of the padded rows.
        ragged: Whether there was padding.
    """

    batch: int
    length: int
    ragged: bool


class Stream(NamedTuple):
    """The tokens of a batch.

    Attributes:
        input_ids: ``[tokens]``, int64.
        token_type_ids: ``[tokens]``, int64.
        position_ids: ``[tokens]``, int64.
        cells: ``[tokens]``, int64, the place of each token in the flattened ``[batch, length]``.
        starts: ``[batch + 1]``, int64, where each row starts, and the number of tokens.
        layout: Of the padded batch.
    """

    input_ids: Tensor
    token_type_ids: Tensor
    position_ids: Tensor
    cells: Tensor
    starts: Tensor
    layout: Layout

    def padded(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """Lay ``[tokens, ...]`` out as ``[batch, length, ...]``."""
        batch, length, ragged = self.layout
        if ragged:
            padding = values.new_full((batch * length, *values.shape[1:]), fill)
            values = padding.index_copy(0, self.cells, values)
        return values.view(batch, length, *values.shape[1:])

    def without_padding(self, values: Tensor) -> Tensor:
        """Undo ``padded``."""
        values = values.flatten(0, 1)
        return values.index_select(0, self.cells) if self.layout.ragged else values

    @property
    def lengths(self) -> Tensor:
        """Return the tokens of each row, ``[batch]``."""
        return self.starts.diff()


def pack(batch: Mapping[str, Tensor]) -> Stream:
    """Leave the padding of a batch out; waits for the device.

    Args:
        batch: ``input_ids`` and, where there are any, ``attention_mask`` and ``token_type_ids``, ``[batch, length]``.

    Raises:
        ValueError: If a row does not start with all its tokens, the padding behind them.
    """
    ids = batch["input_ids"]
    rows, length = ids.shape
    columns = torch.arange(length, device=ids.device)
    mask = batch.get("attention_mask", torch.ones_like(ids)) != 0
    lengths = mask.sum(1)
    if bool((mask != (columns < lengths[:, None])).any()) or bool((lengths == 0).any()):
        raise ValueError("a row without tokens, or with padding before or between them, cannot be packed")
    cells = mask.flatten().nonzero().squeeze(1)
    types = batch.get("token_type_ids", torch.zeros_like(ids))
    return Stream(
        input_ids=ids.flatten()[cells],
        token_type_ids=types.flatten()[cells],
        position_ids=cells % length,
        cells=cells,
        starts=torch.cat([lengths.new_zeros(1), lengths.cumsum(0)]),
        layout=Layout(rows, length, ragged=len(cells) < rows * length),
    )
