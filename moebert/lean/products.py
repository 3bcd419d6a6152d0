"""Launch products that the tensor memory accelerator feeds: of sorted rows by experts, or of all rows by one matrix."""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from moebert.experts.triton_experts import Tiles, tile_bound
from moebert.lean import triton_products as kernels

AT_ONCE = 2  # programs on a multiprocessor


class TileList(NamedTuple):
    """Where the tiles of sorted rows begin; layers may be stacked in front.

    Attributes:
        tiles: ``[bound, 3]``, int32: expert, first row, end of the expert's rows; those past the count mean nothing.
        counts: ``[]``, int32.
        cut: What they were listed for.
    """

    tiles: Tensor
    counts: Tensor
    cut: Tiles

    def layer(self, index: int) -> TileList:
        """Return the tiles of one layer of a stack."""
        return TileList(self.tiles[index], self.counts[index], self.cut)


def list_tiles(ends: Tensor, tokens: int) -> TileList:
    """Cut sorted rows into tiles, each of one expert's rows.

    Args:
        ends: ``[layers, experts]`` of a Dispatch.
        tokens: How many rows a layer has.
    """
    layers, experts = ends.shape
    cut = product_tiles(tokens, experts)
    bound = tile_bound(tokens, experts, cut.rows)
    tiles = torch.empty(layers, bound, 3, dtype=torch.int32, device=ends.device)
    counts = torch.empty(layers, dtype=torch.int32, device=ends.device)
    kernels.tiles_kernel[(bound, layers)](ends, tiles, counts, bound, experts, ROWS=cut.rows, num_warps=1)
    return TileList(tiles, counts, cut)


def grouped_product(
    x: Tensor, matrices: Tensor, bias: Tensor, tiles: TileList, *, gelu: bool = False, backwards: bool = False
) -> Tensor:
    """Compute ``x W_e + b_e``, or its GELU.

    Args:
        x: ``[rows, depth]``, sorted by expert, in half precision; both widths are multiples of 8.
        matrices: ``[experts, depth, width]``.
        bias: ``[experts, width]``.
        tiles: Of this layer.
        gelu: Apply the exact GELU, in bf16 as near as ``gelu_by_tanh`` comes.
        backwards: Begin with the last rows, which still lie in the cache where ``x`` was written from the first.
    """
    cut = tiles.cut
    right = TensorDescriptor.from_tensor(matrices.flatten(0, 1), [cut.depth, cut.columns])
    return _product(
        x, right, bias, tiles, matrices.shape[2], cut, gelu=gelu, transposed=False, backwards=backwards
    )


def product(x: Tensor, weight: Tensor, bias: Tensor, *, gelu: bool = False) -> Tensor:
    """Compute ``x W^T + b``, or its GELU, of ``[rows, depth]`` and ``[width, depth]``."""
    cut = product_tiles(len(x), experts=1)
    right = TensorDescriptor.from_tensor(weight, [cut.columns, cut.depth])
    return _product(x, right, bias, None, len(weight), cut, gelu=gelu, transposed=True, backwards=False)


def _product(
    x: Tensor,
    right: TensorDescriptor,
    bias: Tensor,
    tiles: TileList | None,
    width: int,
    cut: Tiles,
    *,
    gelu: bool,
    transposed: bool,
    backwards: bool,
) -> Tensor:
    rows, depth = x.shape
    outputs = x.new_empty(rows, width)
    bound = triton.cdiv(rows, cut.rows) if tiles is None else len(tiles.tiles)
    places = bound * triton.cdiv(width, cut.columns)
    kernels.product_kernel[(min(places, _programs(x.device)),)](
        TensorDescriptor.from_tensor(x, [cut.rows, cut.depth]),
        right,
        bias,
        outputs,
        *(tiles[:2] if tiles else (None, None)),
        rows,
        depth,
        width,
        GELU=gelu,
        TRANSPOSED=transposed,
        BACKWARDS=backwards,
        ROWS=cut.rows,
        COLUMNS=cut.columns,
        DEPTH=cut.depth,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )
    return outputs


def _programs(device: torch.device) -> int:
    """Return how many programs run at once; the interpreter has no multiprocessors."""
    if device.type != "cuda":
        return AT_ONCE
    return AT_ONCE * torch.cuda.get_device_properties(device).multi_processor_count


def product_tiles(tokens: int, experts: int) -> Tiles:
    """Return how to cut a product; measured on an H100."""
    rows = tokens / experts
    if rows <= 256:
        return Tiles(64, 64, 128, 4, 3)
    if rows <= 768:
        return Tiles(64, 128, 64, 4, 4)
    return Tiles(128, 128, 64, 8, 3)
