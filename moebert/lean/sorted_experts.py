"""Experts of tokens that lie sorted by expert already: what Hopper's tensor memory accelerator can fetch fast.

The LayerNorm before the experts writes its rows sorted, the one after them writes them back in sequence order, so that
sorting costs nothing. A gate comes too late for that: it needs the first LayerNorm's output to choose. Inference only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from moebert.lean.products import TileList, grouped_product
from moebert.lean.triton_fused import expert_norm

if TYPE_CHECKING:
    from torch import Tensor

    from moebert.experts import Dispatch, ExpertWeights


def sorted_experts(rows: Tensor, dispatch: Dispatch, tiles: TileList, weights: ExpertWeights) -> Tensor:
    """Run all experts with the GELU of the normal distribution.

    Args:
        rows: ``[tokens, hidden]``, sorted by expert, in half precision.
        dispatch: Of one layer, without a gate.
        tiles: Of the same layer.
        weights: In the same precision.

    Returns:
        ``[tokens, hidden]`` in sequence order.
    """
    up, up_bias, down, down_bias, norm, norm_bias, eps = weights
    activations = grouped_product(rows, up, up_bias, tiles, gelu=True)
    products = grouped_product(activations, down, down_bias, tiles, backwards=True)
    return expert_norm(products, rows, dispatch, norm, norm_bias, eps)
