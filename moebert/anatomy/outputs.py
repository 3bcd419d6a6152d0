"""How alike the experts of a layer are in what they do: linear CKA of their outputs on the same tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from moebert.layers import MoEBertExperts


def expert_outputs(experts: MoEBertExperts, tokens: Tensor) -> Tensor:
    """Run every expert on the same tokens ``[tokens, hidden]``.

    Returns:
        ``[experts, tokens, hidden]``, float64: what each adds to the residual, before the LayerNorm, which would make
        any two experts look alike.
    """
    weights, x = experts.weights, tokens.double()
    outputs = [
        experts.activation(x @ up + up_bias) @ down + down_bias
        for up, up_bias, down, down_bias in zip(
            weights.up.double(),
            weights.up_bias.double(),
            weights.down.double(),
            weights.down_bias.double(),
            strict=True,
        )
    ]
    return torch.stack(outputs)


def linear_cka(outputs: Tensor) -> Tensor:
    """Return the linear CKA of each two of ``[experts, tokens, hidden]`` (Kornblith et al., 2019).

    Returns:
        ``[experts, experts]`` in [0, 1], 1 for outputs that are equal up to rotation, scale and shift; NaN for an
        expert whose output never changes. Unrelated outputs of effective dimension d have about d / tokens.
    """
    centred = outputs - outputs.mean(1, keepdim=True)
    experts = len(outputs)
    alike = outputs.new_zeros(experts, experts)
    for a in range(experts):
        for b in range(a, experts):
            alike[a, b] = alike[b, a] = (centred[a].T @ centred[b]).square().sum()
    size = alike.diagonal().sqrt()
    return alike / torch.outer(size, size)
