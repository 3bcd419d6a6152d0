"""Experts in plain torch: tokens sorted by expert, one product per expert or per block of tokens.

On the CPU an expert's segment is a slice and a loop over the experts is the fastest way. On an accelerator such
a loop would wait for the segment lengths, so the segments are cut into blocks of equal length, whose number
depends on shapes alone, and one batched product does them all: nothing waits and a CUDA graph can hold it.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts.contract import Activation, Dispatch, ExpertWeights


def grouped_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Run all experts on ``[tokens, hidden]``; see the contract."""
    run = segmented_experts if tokens.device.type == "cpu" else blocked_experts
    return run(tokens, dispatch, weights, activation, dropout)


def segmented_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Loop over the experts' segments; reads their lengths on the host."""
    stacked = zip(*(tensor.unbind(0) for tensor in weights[:-1]), strict=True)
    x = tokens.index_select(0, dispatch.order)
    pieces, start = [], 0
    for end, (up, up_bias, down, down_bias, norm, norm_bias) in zip(dispatch.ends.tolist(), stacked, strict=True):
        if end > start:
            segment = x[start:end]
            y = F.linear(activation(F.linear(segment, up, up_bias)), down, down_bias)
            y = F.dropout(y, dropout)
            pieces.append(F.layer_norm(segment + y, norm.shape, norm, norm_bias, weights.norm_eps))
        start = end
    outputs = torch.cat(pieces) if pieces else x
    return torch.empty_like(outputs).index_copy(0, dispatch.order, outputs)


def blocked_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Multiply blocks of tokens of one expert each; never waits for the device."""
    length = 16 if tokens.shape[0] < 1024 else 128
    block_expert, slots = _layout(dispatch, length)
    blocks = tokens.new_zeros(block_expert.shape[0] * length, tokens.shape[1]).index_copy(
        0, slots, tokens.index_select(0, dispatch.order)
    )
    x = blocks.unflatten(0, (-1, length))
    hidden = activation(_block_linear(x, weights.up[block_expert], weights.up_bias[block_expert]))
    y = _block_linear(hidden, weights.down[block_expert], weights.down_bias[block_expert]).flatten(0, 1)
    y = torch.empty_like(tokens, dtype=y.dtype).index_copy(0, dispatch.order, y.index_select(0, slots))
    normed = F.layer_norm(tokens + F.dropout(y, dropout), tokens.shape[1:], eps=weights.norm_eps)
    return normed * weights.norm[dispatch.expert_ids] + weights.norm_bias[dispatch.expert_ids]


def _block_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Apply ``[blocks, out, in]`` to ``[blocks, length, in]``."""
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def _layout(dispatch: Dispatch, length: int) -> tuple[Tensor, Tensor]:
    """Lay the segments out in blocks that hold tokens of one expert only.

    Returns:
        The expert of each block, ``[blocks]``, and the row of each sorted token among the blocks' rows, ``[tokens]``.
    """
    tokens, experts = dispatch.order.shape[0], dispatch.ends.shape[0]
    ends = dispatch.ends.long()
    starts = F.pad(ends[:-1], (1, 0))
    block_ends = ((ends - starts + length - 1) // length).cumsum(0)
    block_starts = F.pad(block_ends[:-1], (1, 0))
    most_blocks = (tokens + experts * (length - 1)) // length
    blocks = torch.arange(most_blocks, device=ends.device)
    block_expert = torch.searchsorted(block_ends, blocks, right=True).clamp(max=experts - 1)
    sorted_ids = dispatch.expert_ids[dispatch.order]
    shift = block_starts * length - starts
    return block_expert, torch.arange(tokens, device=ends.device) + shift[sorted_ids]
