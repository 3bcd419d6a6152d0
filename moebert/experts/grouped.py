"""Experts in plain torch: tokens sorted by expert, then products of each expert's tokens.

On the CPU an expert's tokens are a slice and a loop over the experts is fastest. On an accelerator such a loop would
wait for the lengths of the slices, so there one product takes all experts: torch's grouped product where it applies,
else a batched product of blocks of tokens whose number depends on shapes alone. A CUDA graph can hold both.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts.contract import product_dtype

if TYPE_CHECKING:
    from moebert.experts.contract import Activation, Dispatch, ExpertWeights


def grouped_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Run all experts on ``[tokens, hidden]``; see the contract."""
    run = expert_by_expert if tokens.device.type == "cpu" else all_at_once
    return dispatch.gated(run(tokens, dispatch, weights, activation, dropout))


def expert_by_expert(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Loop over the experts' slices, whose lengths the host reads."""
    lengths = [end - start for start, end in pairwise([0, *dispatch.ends.tolist()])]
    slices = tokens.index_select(0, dispatch.order).split(lengths)
    products = zip(weights.up_bias, slices, weights.up, strict=True)
    # one call for all experts: a call costs as much as the activation of a few tokens
    hidden = activation(torch.cat([torch.addmm(bias, x, weight) for bias, x, weight in products]))
    outputs = []
    for x, expert_hidden, weight, bias, norm, norm_bias in zip(
        slices,
        hidden.split(lengths),
        weights.down,
        weights.down_bias,
        weights.norm,
        weights.norm_bias,
        strict=True,
    ):
        y = x + F.dropout(torch.addmm(bias, expert_hidden, weight), dropout)
        outputs.append(F.layer_norm(y, norm.shape, norm, norm_bias, weights.norm_eps))
    sorted_outputs = torch.cat(outputs)
    return torch.empty_like(sorted_outputs).index_copy_(0, dispatch.order, sorted_outputs)


def all_at_once(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Take each product for all experts together; never waits for the device."""
    device, experts, dtype = tokens.device.type, len(weights.up), product_dtype(tokens)
    product = _grouped_product if _grouped_mm_applies(tokens, weights, dtype) else _blocked_product
    sorted_ids = dispatch.expert_ids.index_select(0, dispatch.order)
    # a product with one-hot rows picks each token's vector, and its gradient is a product too, not a scatter
    of_sorted = F.one_hot(sorted_ids, experts).to(dtype)
    with torch.autocast(device, enabled=False):
        x = tokens.index_select(0, dispatch.order).to(dtype)
        hidden = product(x, weights.up.to(dtype), sorted_ids, dispatch.ends)
        hidden = activation(torch.addmm(hidden, of_sorted, weights.up_bias.to(dtype)))
        y = product(hidden, weights.down.to(dtype), sorted_ids, dispatch.ends)
        y = torch.addmm(y, of_sorted, weights.down_bias.to(dtype))
        y = torch.empty_like(y).index_copy_(0, dispatch.order, y)
        y = tokens + F.dropout(y, dropout)
        of_token = F.one_hot(dispatch.expert_ids, experts).to(y.dtype)
        normed = F.layer_norm(y, y.shape[1:], eps=weights.norm_eps)
        return torch.addcmul(of_token @ weights.norm_bias, normed, of_token @ weights.norm)


def _grouped_mm_applies(tokens: Tensor, weights: ExpertWeights, dtype: torch.dtype) -> bool:
    """Say whether torch's grouped product takes the operands: bf16, rows of whole 16 bytes, sm80 or later."""
    if not tokens.is_cuda or dtype != torch.bfloat16 or tokens.shape[0] == 0:
        return False
    aligned = all(size % 8 == 0 for size in weights.up.shape[1:])
    return aligned and torch.cuda.get_device_capability(tokens.device) >= (8, 0)


def _grouped_product(x: Tensor, weight: Tensor, _sorted_ids: Tensor, ends: Tensor) -> Tensor:
    """Multiply ``[tokens, in]``, sorted by expert, with ``[experts, in, out]``."""
    return F.grouped_mm(x, weight, offs=ends)


def _blocked_product(x: Tensor, weight: Tensor, sorted_ids: Tensor, ends: Tensor) -> Tensor:
    """Multiply ``[tokens, in]``, sorted by expert, with ``[experts, in, out]``, in blocks of one expert each."""
    # longer blocks copy an expert's matrix less often, shorter ones pad less
    length = min(max(x.shape[0] // ends.shape[0] // 16 * 16, 16), 256)
    expert_of_block, rows = _blocks(sorted_ids, ends, length)
    padded = x.new_zeros(expert_of_block.shape[0] * length, x.shape[1]).index_copy(0, rows, x)
    products = torch.bmm(padded.view(-1, length, x.shape[1]), weight[expert_of_block])
    return products.flatten(0, 1).index_select(0, rows)


def _blocks(sorted_ids: Tensor, ends: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Lay sorted tokens out in blocks of ``length`` rows that never mix experts.

    Returns:
        The expert of each block ``[blocks]``, and the row of each token ``[tokens]``.
    """
    tokens, experts = sorted_ids.shape[0], ends.shape[0]
    starts = F.pad(ends[:-1], (1, 0))
    last_blocks = ((ends - starts + length - 1) // length).cumsum(0)
    first_blocks = F.pad(last_blocks[:-1], (1, 0))
    blocks = torch.arange((tokens + experts * (length - 1)) // length, device=ends.device)
    expert_of_block = torch.searchsorted(last_blocks, blocks, right=True).clamp(max=experts - 1)
    shift = first_blocks * length - starts
    return expert_of_block, torch.arange(tokens, device=ends.device) + shift[sorted_ids]
