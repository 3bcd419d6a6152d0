"""What an implementation of the experts is given and what it must give back.

An implementation gives every token ``p LayerNorm_e(token + dropout(activation(token W1_e + b1_e) W2_e + b2_e))`` of
its expert e, where p is the gate's probability, 1 without a gate. Tokens and outputs are ``[tokens, hidden]`` in
sequence order and of one precision; the dispatch says how to walk them sorted by expert, so that an implementation may
gather and scatter where it costs least.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import NamedTuple

import torch
from torch import Tensor

Activation = Callable[[Tensor], Tensor]


class Dispatch(NamedTuple):
    """Which expert each token visits, and the tokens sorted by expert.

    Several layers may be stacked in front, ``[layers, tokens]`` and ``[layers, experts]``, if there is no gate.

    Attributes:
        expert_ids: ``[tokens]``, int64.
        order: ``[tokens]``, int64, the tokens sorted by expert, in sequence order within an expert.
        ends: ``[experts]``, int32, where in ``order`` the segment of each expert ends.
        probability: ``[tokens]``, what a gate multiplies outputs with; None without a gate.
    """

    expert_ids: Tensor
    order: Tensor
    ends: Tensor
    probability: Tensor | None = None

    def layer(self, index: int) -> Dispatch:
        """Return the dispatch of one layer of a stack."""
        return Dispatch(self.expert_ids[index], self.order[index], self.ends[index])

    def gated(self, outputs: Tensor) -> Tensor:
        """Multiply ``[tokens, hidden]`` with the gate's probability, if there is one."""
        if self.probability is None:
            return outputs
        return (outputs * self.probability.unsqueeze(-1)).to(outputs.dtype)


class ExpertWeights(NamedTuple):
    """The parameters of a layer's experts, stacked along the first dimension.

    The matrices lie as the paper writes them, ``x W1``, which is also the faster way round for the few tokens that an
    expert gets on a CPU.

    Attributes:
        up: ``[experts, hidden, size]``, W1.
        up_bias: ``[experts, size]``, b1.
        down: ``[experts, size, hidden]``, W2.
        down_bias: ``[experts, hidden]``, b2.
        norm: ``[experts, hidden]``, the LayerNorm's weight.
        norm_bias: ``[experts, hidden]``.
        norm_eps: The LayerNorm's epsilon.
    """

    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    norm: Tensor
    norm_bias: Tensor
    norm_eps: float


Implementation = Callable[[Tensor, Dispatch, ExpertWeights, Activation, float], Tensor]


def sort_by_expert(expert_ids: Tensor, num_experts: int) -> Dispatch:
    """Sort tokens by expert, all stacked layers at once and without a host sync.

    Args:
        expert_ids: ``[..., tokens]``, int64.
        num_experts: Experts of a layer.
    """
    expert_ids = (
        expert_ids.contiguous()
    )  # kernels know no strides; one row's ids may be one element, repeated
    if expert_ids.is_cuda and not torch.compiler.is_compiling() and has_triton():
        from moebert.experts.triton_sort import counting_sort

        return Dispatch(expert_ids, *counting_sort(expert_ids, num_experts))
    sorted_ids, order = expert_ids.sort(dim=-1, stable=True)
    experts = torch.arange(num_experts, device=expert_ids.device).expand(*expert_ids.shape[:-1], -1)
    ends = torch.searchsorted(sorted_ids, experts.contiguous(), right=True, out_int32=True)
    return Dispatch(expert_ids, order, ends)


def product_dtype(tokens: Tensor) -> torch.dtype:
    """Return the precision of the products' operands: that of the tokens, or what autocast says."""
    device = tokens.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else tokens.dtype


@cache
def has_triton() -> bool:
    """Say whether triton can be imported, without importing it."""
    return find_spec("triton") is not None
