"""The dumb loop over experts, against which every other implementation is tested."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F  # noqa: N812

if TYPE_CHECKING:
    from torch import Tensor

    from moebert.experts.contract import Activation, Dispatch, ExpertWeights


def reference_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: Activation, dropout: float
) -> Tensor:
    """Run each expert on the tokens that visit it, whatever that costs; see the contract."""
    outputs = torch.zeros_like(tokens)
    for expert in range(weights.up.shape[0]):
        visitors = (dispatch.expert_ids == expert).nonzero().squeeze(-1)
        x = tokens[visitors]
        hidden = activation(x @ weights.up[expert] + weights.up_bias[expert])
        y = F.dropout(hidden @ weights.down[expert] + weights.down_bias[expert], dropout)
        normed = F.layer_norm(
            x + y, x.shape[1:], weights.norm[expert], weights.norm_bias[expert], weights.norm_eps
        )
        outputs = outputs.index_copy(0, visitors, normed.to(outputs.dtype))
    return dispatch.gated(outputs)
