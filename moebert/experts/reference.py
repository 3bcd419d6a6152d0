"""The dumb loop over experts, against which every other implementation is tested."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts.contract import Activation, Dispatch, ExpertWeights


def reference_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Run one expert after the other on the tokens that visit it; syncs with the host."""
    outputs = torch.zeros_like(tokens)
    for expert in range(weights.up.shape[0]):
        chosen = (dispatch.expert_ids == expert).nonzero().squeeze(-1)
        x = tokens[chosen]
        hidden = activation(F.linear(x, weights.up[expert], weights.up_bias[expert]))
        y = F.dropout(F.linear(hidden, weights.down[expert], weights.down_bias[expert]), dropout)
        norm, norm_bias = weights.norm[expert], weights.norm_bias[expert]
        normed = F.layer_norm(x + y, norm.shape, norm, norm_bias, weights.norm_eps)
        outputs = outputs.index_copy(0, chosen, normed.to(outputs.dtype))
    return outputs
