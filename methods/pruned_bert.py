"""A BERT whose layers differ in heads and neurons; the configuration says how many each has.

Importing this module lets the Auto classes load such a checkpoint. It needs neither the teacher nor what was cut.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
    BertConfig,
    BertForQuestionAnswering,
    BertForSequenceClassification,
    BertModel,
)

from bench.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from transformers import PreTrainedModel


class PrunedBertConfig(BertConfig):
    """Describe a BERT that lost heads and neurons.

    ``num_attention_heads`` and ``intermediate_size`` stay those of the model it was cut from; a head keeps its size.

    Attributes:
        layer_attention_heads: Heads of each layer; None: all.
        layer_intermediate_sizes: Feed-forward neurons of each layer; None: all.
    """

    model_type = "pruned-bert"

    layer_attention_heads: list[int] | None = None
    layer_intermediate_sizes: list[int] | None = None


class PrunedBertModel(BertModel):
    """BertModel with fewer heads and neurons."""

    config_class = PrunedBertConfig

    def __init__(self, config: PrunedBertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config, add_pooling_layer=add_pooling_layer)
        _resize(self, config)
        self.post_init()


class PrunedBertForSequenceClassification(BertForSequenceClassification):
    """BertForSequenceClassification with fewer heads and neurons."""

    config_class = PrunedBertConfig

    def __init__(self, config: PrunedBertConfig) -> None:
        super().__init__(config)
        _resize(self.bert, config)
        self.post_init()


class PrunedBertForQuestionAnswering(BertForQuestionAnswering):
    """BertForQuestionAnswering with fewer heads and neurons."""

    config_class = PrunedBertConfig

    def __init__(self, config: PrunedBertConfig) -> None:
        super().__init__(config)
        _resize(self.bert, config)
        self.post_init()


AutoConfig.register(PrunedBertConfig.model_type, PrunedBertConfig, exist_ok=True)
AutoModel.register(PrunedBertConfig, PrunedBertModel, exist_ok=True)
AutoModelForSequenceClassification.register(
    PrunedBertConfig, PrunedBertForSequenceClassification, exist_ok=True
)
AutoModelForQuestionAnswering.register(PrunedBertConfig, PrunedBertForQuestionAnswering, exist_ok=True)

_CLASSES: dict[type, type] = {
    BertModel: PrunedBertModel,
    BertForSequenceClassification: PrunedBertForSequenceClassification,
    BertForQuestionAnswering: PrunedBertForQuestionAnswering,
}


def prune(model: PreTrainedModel, heads: Sequence[Tensor], neurons: Sequence[Tensor]) -> PreTrainedModel:
    """Copy a BERT with some of its heads and neurons.

    Args:
        model: A BertModel, or one with a head for sequences or spans.
        heads: Of each layer, the indices of the heads that stay.
        neurons: Of each layer, the indices of the feed-forward neurons that stay.

    Raises:
        UserError: Where the model is of another class.
    """
    if type(model) not in _CLASSES:
        known = ", ".join(known.__name__ for known in _CLASSES)
        raise UserError(f"cannot remove heads and neurons of a {type(model).__name__}; known: {known}")
    inherited = model.config.to_dict()
    for key in ("model_type", "architectures", "transformers_version", "_name_or_path"):
        inherited.pop(key, None)
    config = PrunedBertConfig(
        **inherited,
        layer_attention_heads=[len(kept) for kept in heads],
        layer_intermediate_sizes=[len(kept) for kept in neurons],
    )
    config._attn_implementation = model.config._attn_implementation
    student: PreTrainedModel = _CLASSES[type(model)](config)
    student.load_state_dict(_kept_weights(model, config, heads, neurons))
    return student


def _kept_weights(
    model: PreTrainedModel, config: PrunedBertConfig, heads: Sequence[Tensor], neurons: Sequence[Tensor]
) -> dict[str, Tensor]:
    """Slice the weights of what stays; all others are taken whole."""
    weights = dict(model.state_dict())
    size = config.hidden_size // config.num_attention_heads
    prefix = "" if model.base_model is model else f"{model.base_model_prefix}."
    for index in range(config.num_hidden_layers):
        layer = f"{prefix}encoder.layer.{index}."
        channels = (heads[index][:, None] * size + torch.arange(size)).flatten().to(model.device)
        units = neurons[index].to(model.device)
        for name, kept, dimension in (
            ("attention.self.query", channels, 0),
            ("attention.self.key", channels, 0),
            ("attention.self.value", channels, 0),
            ("attention.output.dense", channels, 1),
            ("intermediate.dense", units, 0),
            ("output.dense", units, 1),
        ):
            weight, bias = f"{layer}{name}.weight", f"{layer}{name}.bias"
            weights[weight] = weights[weight].index_select(dimension, kept)
            if dimension == 0:
                weights[bias] = weights[bias][kept]
    return weights


def _resize(bert: BertModel, config: PrunedBertConfig) -> None:
    """Replace the layers that lost something by smaller ones."""
    layers: list[Any] = list(bert.encoder.layer)
    heads = config.layer_attention_heads or [config.num_attention_heads] * len(layers)
    sizes = config.layer_intermediate_sizes or [config.intermediate_size] * len(layers)
    for layer, count, neurons in zip(layers, heads, sizes, strict=True):
        attention, hidden = layer.attention.self, config.hidden_size
        attention.num_attention_heads = count
        attention.all_head_size = width = count * attention.attention_head_size
        attention.query = nn.Linear(hidden, width)
        attention.key = nn.Linear(hidden, width)
        attention.value = nn.Linear(hidden, width)
        layer.attention.output.dense = nn.Linear(width, hidden)
        layer.intermediate.dense = nn.Linear(hidden, neurons)
        layer.output.dense = nn.Linear(neurons, hidden)
