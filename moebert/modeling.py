"""MoEBERT: a BERT whose feed-forward layers are experts, one visited by each token.

Embeddings, attention and pooler are those of transformers' BERT under the same names, so the weights of a dense teacher
map one to one. A forward is a pure function of tensors that a CUDA graph can hold; it takes no argument unknown to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import initialization as init
from transformers.masking_utils import create_bidirectional_mask
from transformers.models.bert.modeling_bert import BertEmbeddings, BertPooler, BertPreTrainedModel
from transformers.utils.generic import ModelOutput, can_return_tuple

from moebert.configuration import MoEBertConfig
from moebert.experts import DEFAULT_IMPLEMENTATION, Dispatch, find_implementation, sort_by_expert
from moebert.layers import MoEBertEncoder, MoEBertExperts
from moebert.losses import sequence_loss, span_loss
from moebert.routing import Gate, HashRouter, balanced_hash, random_hash


@dataclass
class MoEBertModelOutput(ModelOutput):
    """Hold the encoder's outputs; names shared with BERT's keep their meaning.

    Attributes:
        last_hidden_state: ``[batch, length, hidden]``.
        pooler_output: ``[batch, hidden]``.
        hidden_states: ``[batch, length, hidden]`` of the embeddings and of every layer, if asked for.
        attentions: ``[batch, heads, length, length]`` of every layer, if asked for.
        balance_loss: Sum over the layers of the gates' balance loss, a scalar; None for hash routings.
        router_logits: ``[batch, length, experts]`` of every layer, for a sentence gate ``[batch, experts]``;
            None for hash routings.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    balance_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None


@dataclass
class MoEBertSequenceClassifierOutput(ModelOutput):
    """Hold a sequence head's loss and logits ``[batch, labels]``; the rest as in MoEBertModelOutput."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    balance_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None


@dataclass
class MoEBertQuestionAnsweringOutput(ModelOutput):
    """Hold a span head's loss and logits ``[batch, length]``; the rest as in MoEBertModelOutput."""

    loss: Tensor | None = None
    start_logits: Tensor | None = None
    end_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    balance_loss: Tensor | None = None
    router_logits: tuple[Tensor, ...] | None = None


class MoEBertPreTrainedModel(BertPreTrainedModel):
    """Tell transformers how MoEBERT is initialised, loaded and switched between expert implementations."""

    config: MoEBertConfig
    config_class = MoEBertConfig
    base_model_prefix = "bert"
    _no_split_modules = ["BertEmbeddings", "MoEBertLayer"]  # noqa: RUF012 (declared so by transformers)
    _can_record_outputs: dict[str, object] = {}  # noqa: RUF012 (the encoder keeps its outputs itself, no hooks)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        std = self.config.initializer_range
        if isinstance(module, MoEBertExperts):
            init.normal_(module.up_weight, std=std)
            init.normal_(module.down_weight, std=std)
            init.ones_(module.layernorm_weight)
            for bias in (module.up_bias, module.down_bias, module.layernorm_bias):
                init.zeros_(bias)
            init.constant_(module.neuron_indices, -1)
        elif isinstance(module, Gate):
            init.normal_(module.weight, std=std)
        elif isinstance(module, HashRouter):
            init.copy_(module.table, _table_without_data(self.config))

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load as transformers does, into memory laid out as if the model had been built here.

        What transformers loads are views into the file; the last bit of a product can depend on where operands lie.
        """
        loaded = super().from_pretrained(*args, **kwargs)
        model = loaded[0] if isinstance(loaded, tuple) else loaded
        for tensor in chain(model.parameters(), model.buffers()):
            tensor.data = tensor.data.clone()
        return loaded

    def resize_token_embeddings(self, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize as transformers does, and a hash table with it; ids that are kept keep their experts."""
        embeddings: nn.Module = super().resize_token_embeddings(*args, **kwargs)
        router = self.base_model.router
        if router is not None:
            table = _table_without_data(self.config).to(router.table.device, copy=True)
            kept = min(table.shape[1], router.table.shape[1])
            table[:, :kept] = router.table[:, :kept]
            router.table = table
        return embeddings

    @classmethod
    def _can_set_experts_implementation(cls) -> bool:
        return True

    def get_correct_experts_implementation(self, requested_experts: str | None) -> str:
        """Resolve and check a name for transformers' ``set_experts_implementation``.

        The names are ours: transformers' own implementations know no LayerNorm per expert.
        """
        name = DEFAULT_IMPLEMENTATION if requested_experts is None else requested_experts
        find_implementation(name)
        return name


class MoEBertModel(MoEBertPreTrainedModel):
    """Encode token ids; BertModel with experts for feed-forward networks."""

    def __init__(self, config: MoEBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.gradient_checkpointing = False
        self.embeddings = BertEmbeddings(config)
        self.router = None
        if config.routing.startswith("hash"):
            self.router = HashRouter(num_layers=config.num_hidden_layers, vocab_size=config.vocab_size)
        self.encoder = MoEBertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the word embeddings."""
        embeddings: nn.Module = self.embeddings.word_embeddings
        return embeddings

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        """Replace the word embeddings."""
        self.embeddings.word_embeddings = value

    @can_return_tuple  # type: ignore[untyped-decorator]
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
        """Encode ``[batch, length]`` ids; the arguments are BertModel's.

        Raises:
            ValueError: If ids and embeddings are both given or both missing, if a hash routing gets no ids, or if
                attention weights are asked of an implementation that keeps none.
        """
        if (input_ids is None) == (inputs_embeds is None):
            raise ValueError("give exactly one of input_ids and inputs_embeds")
        attn = self.config._attn_implementation
        keep_attentions = self.config.output_attentions if output_attentions is None else output_attentions
        if keep_attentions and attn != "eager":
            raise ValueError(f"attn_implementation {attn!r} keeps no attention weights; set 'eager' for them")
        embedded = self.embeddings(
            input_ids=input_ids,
            token_type_ids=token_type_ids,
            position_ids=position_ids,
            inputs_embeds=inputs_embeds,
        )
        layers = self.encoder(
            embedded,
            create_bidirectional_mask(self.config, embedded, attention_mask),
            self._dispatch(input_ids),
            self._token_mask(attention_mask, embedded),
            position_ids,
        )
        last = layers[-1].hidden_states
        states = (embedded, *(layer.hidden_states for layer in layers))
        keep_states = (
            self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        )
        has_gates = self.router is None
        return MoEBertModelOutput(
            last_hidden_state=last,
            pooler_output=None if self.pooler is None else self.pooler(last),
            hidden_states=states if keep_states else None,
            attentions=tuple(layer.attentions for layer in layers) if keep_attentions else None,
            balance_loss=torch.stack([layer.balance_loss for layer in layers]).sum() if has_gates else None,
            router_logits=tuple(layer.router_logits for layer in layers) if has_gates else None,
        )

    def _dispatch(self, input_ids: Tensor | None) -> Dispatch | None:
        """Look all layers' experts up at once, and sort; None if the layers have gates."""
        if self.router is None:
            return None
        if input_ids is None:
            raise ValueError(f"routing {self.config.routing!r} looks experts up by token id: give input_ids")
        return sort_by_expert(self.router(input_ids).flatten(1), self.config.num_experts)

    def _token_mask(self, attention_mask: Tensor | None, embedded: Tensor) -> Tensor | None:
        """Return ``[batch, length]``, 0 on padding, for the gates; None if there are none."""
        if self.router is not None:
            return None
        if attention_mask is None:
            return embedded.new_ones(embedded.shape[:2])
        if attention_mask.dim() != 2:
            shape = list(attention_mask.shape)
            raise ValueError(
                f"a gate needs an attention_mask [batch, length] to tell padding; it has shape {shape}"
            )
        return attention_mask


class MoEBertForSequenceClassification(MoEBertPreTrainedModel):
    """Classify or score sequences; BertForSequenceClassification with experts."""

    def __init__(self, config: MoEBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels or 0
        self.bert = MoEBertModel(config)
        dropout = config.classifier_dropout
        self.dropout = nn.Dropout(config.hidden_dropout_prob if dropout is None else dropout)
        self.classifier = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
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
        """Return logits ``[batch, labels]``, and with labels the loss, the weighted balance loss included."""
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
            loss = _with_balance(sequence_loss(logits, labels, self.config), encoded, self.config)
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
        self.num_labels = config.num_labels or 0
        self.bert = MoEBertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, self.num_labels)
        self.post_init()

    @can_return_tuple  # type: ignore[untyped-decorator]
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
        """Return start and end logits ``[batch, length]``, and with positions ``[batch]`` the loss."""
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
        loss = None
        if start_positions is not None and end_positions is not None:
            spans = span_loss(start_logits, end_logits, start_positions, end_positions)
            loss = _with_balance(spans, encoded, self.config)
        return MoEBertQuestionAnsweringOutput(
            loss=loss,
            start_logits=start_logits.contiguous(),
            end_logits=end_logits.contiguous(),
            hidden_states=encoded.hidden_states,
            attentions=encoded.attentions,
            balance_loss=encoded.balance_loss,
            router_logits=encoded.router_logits,
        )


def _table_without_data(config: MoEBertConfig) -> Tensor:
    """Return a hash table for a model that saw no training tokens: balanced then means over the vocabulary."""
    layers, vocab_size, experts = config.num_hidden_layers, config.vocab_size, config.num_experts
    if config.routing == "hash-random":
        return random_hash(layers, vocab_size, experts, config.routing_seed)
    return balanced_hash(torch.ones(vocab_size), experts).repeat(layers, 1)


def _with_balance(loss: Tensor, encoded: MoEBertModelOutput, config: MoEBertConfig) -> Tensor:
    if encoded.balance_loss is None:
        return loss
    return loss + config.balance_loss_weight * encoded.balance_loss
