"""MoEBERT: a BERT whose feed-forward layers are experts, one visited by each token.

Embeddings, attention and pooler are those of transformers' BERT under the same names, so the weights of a dense
teacher map one to one. Every forward is a pure tensor function of its inputs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.activations import ACT2FN
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.models.bert.modeling_bert import BertAttention, BertEmbeddings, BertPooler, BertPreTrainedModel
from transformers.utils import ModelOutput
from transformers.utils.generic import can_return_tuple

from moebert.configuration import MoEBertConfig
from moebert.experts import DEFAULT_IMPLEMENTATION, Dispatch, ExpertWeights, find_implementation, sort_by_expert
from moebert.losses import sequence_losses, span_loss
from moebert.routing import Gate, HashRouter, balanced_hash, random_hash


@dataclass
class MoEBertModelOutput(ModelOutput):
    """Hold the encoder's outputs; the names shared with BERT's keep their meaning.

    Attributes:
        balance_loss: Sum over the layers of the gates' balance loss, a scalar. None for hash routings.
        router_logits: One ``[batch, length, experts]`` a layer, for a sentence gate ``[batch, experts]``.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    balance_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None


@dataclass
class MoEBertSequenceClassifierOutput(ModelOutput):
    """Hold a sequence classifier's outputs; see MoEBertModelOutput."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    balance_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None


@dataclass
class MoEBertQuestionAnsweringOutput(ModelOutput):
    """Hold a span head's outputs; see MoEBertModelOutput."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    balance_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None


class MoEBertExperts(nn.Module):
    """Hold the experts of one layer, each with its own bias, residual and LayerNorm.

    Attributes:
        neuron_indices: ``[experts, size]``, int64, the dense neuron each expert's neuron was cut from; -1 if none.
    """

    neuron_indices: Tensor

    def __init__(self, config: MoEBertConfig) -> None:
        super().__init__()
        experts, size, hidden = config.num_experts, config.expert_size, config.hidden_size
        self.config = config
        self.up_weight = nn.Parameter(torch.empty(experts, size, hidden))
        self.up_bias = nn.Parameter(torch.empty(experts, size))
        self.down_weight = nn.Parameter(torch.empty(experts, hidden, size))
        self.down_bias = nn.Parameter(torch.empty(experts, hidden))
        self.layernorm_weight = nn.Parameter(torch.empty(experts, hidden))
        self.layernorm_bias = nn.Parameter(torch.empty(experts, hidden))
        self.register_buffer("neuron_indices", torch.full((experts, size), -1, dtype=torch.int64))
        self.activation = ACT2FN[config.hidden_act]

    @property
    def weights(self) -> ExpertWeights:
        """Return the parameters in the form the implementations take."""
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
        """Run ``[tokens, hidden]`` through the expert of each token."""
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
        token_mask: Tensor,
        position_ids: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, Tensor | None]:
        """Run one layer on ``[batch, length, hidden]``.

        Args:
            hidden_states: ``[batch, length, hidden]``.
            attention_mask: What the attention implementation takes.
            dispatch: Where the hash routing sends the batch's tokens; None if the layer has a gate.
            token_mask: ``[batch, length]``, 0 on padding.
            position_ids: ``[batch, length]``; packed sequences are told apart by it where attention can.

        Returns:
            The next hidden states, attention weights, router logits and balance loss; None where there are none.
        """
        attended, attentions = self.attention(hidden_states, attention_mask, position_ids=position_ids)
        if self.gate is None:
            return self._run_experts(attended, dispatch), attentions, None, None
        gated = self.gate(attended, token_mask)
        outputs = self._run_experts(attended, sort_by_expert(gated.expert_ids.flatten(), self.num_experts))
        outputs = outputs * gated.probability.unsqueeze(-1).to(outputs.dtype)
        return outputs, attentions, gated.logits, gated.balance_loss

    def _run_experts(self, attended: Tensor, dispatch: Dispatch) -> Tensor:
        return self.experts(attended.flatten(0, 1), dispatch).view_as(attended)


class MoEBertEncoder(nn.Module):
    """Stack the layers."""

    def __init__(self, config: MoEBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([MoEBertLayer(config, index) for index in range(config.num_hidden_layers)])


class MoEBertPreTrainedModel(BertPreTrainedModel):
    """Tell transformers how MoEBERT is initialised, loaded and switched."""

    config: MoEBertConfig
    config_class = MoEBertConfig
    base_model_prefix = "bert"
    _no_split_modules = ["BertEmbeddings", "MoEBertLayer"]  # noqa: RUF012 (transformers' own declaration)
    _can_record_outputs = None  # the encoder collects its outputs itself

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        config = self.config
        if isinstance(module, MoEBertExperts):
            for weight in (module.up_weight, module.down_weight):
                init.normal_(weight, mean=0.0, std=config.initializer_range)
            for bias in (module.up_bias, module.down_bias, module.layernorm_bias):
                init.zeros_(bias)
            init.ones_(module.layernorm_weight)
            init.constant_(module.neuron_indices, -1)
        elif isinstance(module, Gate):
            init.normal_(module.weight, mean=0.0, std=config.initializer_range)
        elif isinstance(module, HashRouter):
            init.copy_(module.table, _first_table(config))

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """Check the name of an implementation of ours; transformers' know no LayerNorm per expert."""
        name = DEFAULT_IMPLEMENTATION if requested_experts is None else requested_experts
        find_implementation(name)
        return name


class MoEBertModel(MoEBertPreTrainedModel):
    """Encode token ids; BertModel with experts for feed-forward layers."""

    def __init__(self, config: MoEBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = BertEmbeddings(config)
        self.router = (
            HashRouter(num_layers=config.num_hidden_layers, vocab_size=config.vocab_size)
            if config.routing.startswith("hash")
            else None
        )
        self.encoder = MoEBertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        return self.embeddings.word_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MoEBertModelOutput:
        """Encode ``[batch, length]`` ids to ``[batch, length, hidden]``; arguments as BertModel's.

        Raises:
            ValueError: If ids and embeddings are both given or both missing, a hash routing gets no ids,
                or attention weights are asked of an attention implementation that has none.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        if self.router is not None and input_ids is None:
            raise ValueError(f"routing {self.config.routing!r} looks experts up by token id: give input_ids")
        keep_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        keep_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        if keep_attentions and self.config._attn_implementation != "eager":
            raise ValueError(
                f"attn_implementation {self.config._attn_implementation!r} keeps no attention weights: use 'eager'"
            )
        hidden_states = self.embeddings(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )
        token_mask = _token_mask(attention_mask, hidden_states, required=self.router is None)
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=hidden_states, attention_mask=attention_mask
        )
        dispatches = self._dispatch(input_ids)
        states: list[Tensor] = [hidden_states]
        attentions: list[Any] = []
        router_logits: list[Any] = []
        balance_losses: list[Any] = []
        for layer, dispatch in zip(self.encoder.layer, dispatches, strict=True):
            hidden_states, weights, logits, balance = layer(hidden_states, mask, dispatch, token_mask, position_ids)
            states.append(hidden_states)
            attentions.append(weights)
            router_logits.append(logits)
            balance_losses.append(balance)
        gated = self.router is None
        return MoEBertModelOutput(
            last_hidden_state=hidden_states,
            pooler_output=None if self.pooler is None else self.pooler(hidden_states),
            hidden_states=tuple(states) if keep_states else None,
            attentions=tuple(attentions) if keep_attentions else None,
            balance_loss=torch.stack(balance_losses).sum() if gated else None,
            router_logits=tuple(router_logits) if gated else None,
        )

    def _dispatch(self, input_ids: Tensor | None) -> list[Dispatch | None]:
        """Return where the hash sends the tokens, for each layer; None for each if the layers have gates."""
        layers = self.config.num_hidden_layers
        if self.router is None:
            return [None] * layers
        stacked = sort_by_expert(self.router(input_ids).flatten(1), self.config.num_experts)
        return [stacked.layer(index) for index in range(layers)]


class MoEBertForSequenceClassification(MoEBertPreTrainedModel):
    """Classify or score a sequence; BertForSequenceClassification with experts."""

    def __init__(self, config: MoEBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = MoEBertModel(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MoEBertSequenceClassifierOutput:
        """Return logits ``[batch, labels]``, and the loss with the weighted balance loss if there are labels."""
        encoded = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        logits = self.classifier(self.dropout(encoded.pooler_output))
        loss = None
        if labels is not None:
            loss = _with_balance(sequence_losses(logits, labels, self.config).mean(), encoded, self.config)
        return MoEBertSequenceClassifierOutput(
            loss=loss,
            logits=logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            balance_loss=encoded.balance_loss,
            router_logits=encoded.router_logits,
        )


class MoEBertForQuestionAnswering(MoEBertPreTrainedModel):
    """Point at an answer's first and last token; BertForQuestionAnswering with experts."""

    def __init__(self, config: MoEBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = MoEBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    @can_return_tuple
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        start_positions: Tensor | None = None,
        end_positions: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
    ) -> MoEBertQuestionAnsweringOutput:
        """Return start and end logits ``[batch, length]``, and the loss if the positions are given."""
        encoded = self.bert(
            input_ids,
            attention_mask=attention_mask,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
        )
        start_logits, end_logits = self.qa_outputs(encoded.last_hidden_state).unbind(-1)
        start_logits, end_logits = start_logits.contiguous(), end_logits.contiguous()
        loss = None
        if start_positions is not None and end_positions is not None:
            spans = span_loss(start_logits, end_logits, start_positions, end_positions)
            loss = _with_balance(spans, encoded, self.config)
        return MoEBertQuestionAnsweringOutput(
            loss=loss,
            start_logits=start_logits,
            end_logits=end_logits,
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            balance_loss=encoded.balance_loss,
            router_logits=encoded.router_logits,
        )


def _gate(config: MoEBertConfig) -> Gate | None:
    if config.routing.startswith("hash"):
        return None
    return Gate(
        hidden_size=config.hidden_size,
        num_experts=config.num_experts,
        per_sentence=config.routing == "gate-sentence",
    )


def _first_table(config: MoEBertConfig) -> Tensor:
    """Return the table of a model without training data: a balanced hash then balances the vocabulary."""
    layers, vocab_size, experts = config.num_hidden_layers, config.vocab_size, config.num_experts
    if config.routing == "hash-random":
        return random_hash(layers, vocab_size, experts, config.routing_seed)
    return balanced_hash(torch.ones(vocab_size), experts).expand(layers, -1)


def _token_mask(attention_mask: Tensor | None, hidden_states: Tensor, *, required: bool) -> Tensor:
    """Return ``[batch, length]``, 0 on padding; only gates need it."""
    if attention_mask is None or not required:
        return hidden_states.new_ones(hidden_states.shape[:2])
    if attention_mask.dim() != 2:
        raise ValueError(f"a gate needs a [batch, length] attention_mask, not {list(attention_mask.shape)}")
    return attention_mask


def _with_balance(loss: Tensor, encoded: MoEBertModelOutput, config: MoEBertConfig) -> Tensor:
    if encoded.balance_loss is None:
        return loss
    return loss + config.balance_loss_weight * encoded.balance_loss
