"""Experts of tokens that lie sorted by expert already: what Hopper's tensor memory accelerator can fetch fast.

The LayerNorm before the experts writes its rows sorted, the one after them writes them back in sequence order, so that
sorting costs nothing. A gate comes too late for that: it needs the first LayerNorm's output to choose. Inference only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import triton
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from moebert.experts.triton_experts import Tiles, tile_bound
from moebert.lean import triton_sorted as kernels
from moebert.lean.triton_fused import whole_rows

if TYPE_CHECKING:
    from moebert.experts import Dispatch, ExpertWeights


def sorted_experts(rows: Tensor, dispatch: Dispatch, weights: ExpertWeights) -> Tensor:
    """Run all experts with the exact GELU.

    Args:
        rows: ``[tokens, hidden]``, sorted by expert, in half precision.
        dispatch: Of one layer, without a gate.
        weights: In the same precision.

    Returns:
        ``[tokens, hidden]`` in sequence order.
    """
    up, up_bias, down, down_bias, norm, norm_bias, eps = weights
    (count, hidden), (experts, _, size) = rows.shape, up.shape
    activations, sums = rows.new_empty(count, size), torch.empty_like(rows)
    cut = product_tiles(count, experts)
    tiles = tile_bound(count, experts, cut.rows)
    options = {
        "ROWS": cut.rows,
        "COLUMNS": cut.columns,
        "DEPTH": cut.depth,
        "num_warps": cut.num_warps,
        "num_stages": cut.num_stages,
    }
    kernels.up_kernel[(tiles * triton.cdiv(size, cut.columns),)](
        TensorDescriptor.from_tensor(rows, [cut.rows, cut.depth]),
        TensorDescriptor.from_tensor(up.flatten(0, 1), [cut.depth, cut.columns]),
        dispatch.ends,
        up_bias,
        activations,
        hidden,
        size,
        experts,
        **options,
    )
    kernels.down_kernel[(tiles * triton.cdiv(hidden, cut.columns),)](
        TensorDescriptor.from_tensor(activations, [cut.rows, cut.depth]),
        TensorDescriptor.from_tensor(down.flatten(0, 1), [cut.depth, cut.columns]),
        dispatch.ends,
        down_bias,
        rows,
        sums,
        hidden,
        size,
        experts,
        **options,
    )
    outputs = torch.empty_like(rows)
    grid, whole = whole_rows(count, hidden)
    kernels.norm_kernel[grid](
        sums, dispatch.order, dispatch.expert_ids, norm, norm_bias, outputs, count, hidden, eps, **whole
    )
    return outputs


def product_tiles(tokens: int, experts: int) -> Tiles:
    """Return how to cut a product; measured on an H100."""
    rows = tokens / experts
    if rows <= 256:
        return Tiles(64, 64, 128, 4, 3)
    if rows <= 768:
        return Tiles(64, 128, 64, 4, 4)
    return Tiles(128, 128, 64, 8, 3)
