"""The layers of MoEBERT: BERT's attention, a router, and experts for a feed-forward network."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertAttention

from moebert.configuration import MoEBertConfig
from moebert.experts import Dispatch, ExpertWeights, find_implementation, sort_by_expert
from moebert.routing import Gate


class LayerOutput(NamedTuple):
    """What one layer gives back.

    Attributes:
        hidden_states: ``[batch, length, hidden]``.
        attentions: ``[batch, heads, length, length]``, None unless attention is eager.
        router_logits: ``[batch, length, experts]``, for a sentence gate ``[batch, experts]``; None without a gate.
        balance_loss: Scalar; None without a gate.
    """

    hidden_states: Tensor
    attentions: Tensor | None
    router_logits: Tensor | None
    balance_loss: Tensor | None


class MoEBertExperts(nn.Module):
    """Hold the experts of one layer, each with its own biases and LayerNorm; see ExpertWeights for the shapes.

    Attributes:
        neuron_indices: ``[experts, size]``, int64, the dense neuron that each expert's neuron was; -1 if none.
    """

    neuron_indices: Tensor

    def __init__(self, config: MoEBertConfig) -> None:
        super().__init__()
        experts, size, hidden = config.num_experts, config.expert_size, config.hidden_size
        self.config = config
        self.up_weight = nn.Parameter(torch.empty(experts, hidden, size))
        self.up_bias = nn.Parameter(torch.empty(experts, size))
        self.down_weight = nn.Parameter(torch.empty(experts, size, hidden))
        self.down_bias = nn.Parameter(torch.empty(experts, hidden))
        self.layernorm_weight = nn.Parameter(torch.empty(experts, hidden))
        self.layernorm_bias = nn.Parameter(torch.empty(experts, hidden))
        self.register_buffer("neuron_indices", torch.full((experts, size), -1, dtype=torch.int64))
        self.activation = ACT2FN[config.hidden_act]

    @property
    def weights(self) -> ExpertWeights:
        """Return the parameters as the implementations take them."""
        return ExpertWeights(
            up=self.up_weight,
            up_bias=self.up_bias,
            down=self.down_weight,
            down_bias=self.down_bias,
            norm=self.layernorm_weight,
            norm_bias=self.layernorm_bias,
            norm_eps=self.config.layer_norm_eps,
        )

    def forward(self, tokens: Tensor, dispatch: Dispatch) -> Tensor:
        """Run each of ``[tokens, hidden]`` through its expert."""
        run = find_implementation(self.config._experts_implementation)
        dropout = float(self.config.expert_dropout) if self.training else 0.0
        return run(tokens, dispatch, self.weights, self.activation, dropout)


class MoEBertLayer(GradientCheckpointingLayer):
    """Attend, route, and run the experts."""

    def __init__(self, config: MoEBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.num_experts = config.num_experts
        self.attention = BertAttention(config, layer_idx=layer_idx)
        self.experts = MoEBertExperts(config)
        self.gate = _gate(config)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        dispatch: Dispatch | None,
        token_mask: Tensor | None,
        position_ids: Tensor | None,
    ) -> LayerOutput:
        """Run the layer.

        Args:
            hidden_states: ``[batch, length, hidden]``.
            attention_mask: What the attention implementation takes.
            dispatch: Where a hash sends the tokens; None if the layer has a gate.
            token_mask: ``[batch, length]``, 0 on padding; only a gate needs it.
            position_ids: ``[batch, length]``; some attention implementations tell packed sequences apart by it.
        """
        attended, attentions = self.attention(hidden_states, attention_mask, position_ids=position_ids)
        if self.gate is None:
            return LayerOutput(self._run_experts(attended, dispatch), attentions, None, None)
        gated = self.gate(attended, token_mask)
        dispatch = sort_by_expert(gated.expert_ids.flatten(), self.num_experts)
        outputs = self._run_experts(attended, dispatch._replace(probability=gated.probability.flatten()))
        return LayerOutput(outputs, attentions, gated.logits, gated.balance_loss)

    def _run_experts(self, attended: Tensor, dispatch: Dispatch | None) -> Tensor:
        outputs: Tensor = self.experts(attended.flatten(0, 1), dispatch)
        return outputs.view_as(attended)


class MoEBertEncoder(nn.Module):
    """Stack the layers."""

    def __init__(self, config: MoEBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([MoEBertLayer(config, index) for index in range(config.num_hidden_layers)])

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None,
        dispatch: Dispatch | None,
        token_mask: Tensor | None,
        position_ids: Tensor | None,
    ) -> list[LayerOutput]:
        """Run all layers; ``dispatch`` is the stack of all layers' dispatches, the rest as in MoEBertLayer."""
        outputs: list[LayerOutput] = []
        for index, layer in enumerate(self.layer):
            own = None if dispatch is None else dispatch.layer(index)
            outputs.append(layer(hidden_states, attention_mask, own, token_mask, position_ids))
            hidden_states = outputs[-1].hidden_states
        return outputs


def _gate(config: MoEBertConfig) -> Gate | None:
    if config.routing.startswith("hash"):
        return None
    return Gate(
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        per_sentence=config.routing == "gate-sentence",
    )
