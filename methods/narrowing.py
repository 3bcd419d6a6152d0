"""Make a BERT narrower by keeping the dimensions that its weights use most."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@torch.no_grad()
def narrow(model: PreTrainedModel, hidden_size: int) -> PreTrainedModel:
    """Copy a BERT with fewer hidden dimensions, the same heads and a feed-forward layer in proportion.

    Kept are the hidden dimensions in which the word embeddings vary most, in each head the query-key and value-output
    pairs with the largest product of norms, and the neurons likewise. That is a warm start, not an approximation: what
    the model computed must be learned again.

    Raises:
        UserError: Where the heads do not divide ``hidden_size`` or the model is not wider.
    """
    config = copy.deepcopy(model.config)
    heads, width = config.num_attention_heads, config.hidden_size
    if hidden_size > width or hidden_size % heads:
        raise UserError(f"hidden_size={hidden_size}: choose a multiple of the {heads} heads, at most {width}")
    config.hidden_size = hidden_size
    config.intermediate_size = config.intermediate_size * hidden_size // width
    student: PreTrainedModel = type(model)(config)

    old: Any = model.base_model
    new: Any = student.base_model
    hidden = _largest(old.embeddings.word_embeddings.weight.std(dim=0), hidden_size)
    for target, source in zip(new.embeddings.modules(), old.embeddings.modules(), strict=True):
        if isinstance(source, nn.Embedding):
            target.weight.copy_(source.weight[:, hidden])
    for target, source in zip(new.encoder.layer, old.encoder.layer, strict=True):
        _copy_layer(target, source, hidden)
    for (name, target), source in zip(student.named_modules(), model.modules(), strict=True):
        if isinstance(source, nn.LayerNorm):
            target.weight.copy_(source.weight[hidden])
            target.bias.copy_(source.bias[hidden])
        elif isinstance(source, nn.Linear) and "encoder.layer" not in name:  # pooler and head
            rows = hidden if source.out_features == width else torch.arange(source.out_features)
            _copy(target, source, rows, hidden)
    return student


def _copy_layer(target: Any, source: Any, hidden: Tensor) -> None:
    """Fill a narrower encoder layer; its shapes say how much is kept."""
    attention = source.attention.self
    heads, size = attention.num_attention_heads, target.attention.self.attention_head_size
    scores = _largest_in_heads(_products(attention.query.weight, attention.key.weight), heads, size)
    values = _largest_in_heads(
        _products(attention.value.weight, source.attention.output.dense.weight.T), heads, size
    )
    neurons = _largest(
        _products(source.intermediate.dense.weight, source.output.dense.weight.T),
        target.intermediate.dense.out_features,
    )
    _copy(target.attention.self.query, attention.query, scores, hidden)
    _copy(target.attention.self.key, attention.key, scores, hidden)
    _copy(target.attention.self.value, attention.value, values, hidden)
    _copy(target.attention.output.dense, source.attention.output.dense, hidden, values)
    _copy(target.intermediate.dense, source.intermediate.dense, neurons, hidden)
    _copy(target.output.dense, source.output.dense, hidden, neurons)


def _copy(target: nn.Linear, source: nn.Linear, rows: Tensor, columns: Tensor) -> None:
    target.weight.copy_(source.weight[rows][:, columns])
    target.bias.copy_(source.bias[rows])


def _products(left: Tensor, right: Tensor) -> Tensor:
    """Multiply the norms of the rows of two matrices: what a pair of them can contribute."""
    products: Tensor = left.norm(dim=1) * right.norm(dim=1)
    return products


def _largest(scores: Tensor, count: int) -> Tensor:
    """Return the indices of the largest scores along the last dimension, ascending."""
    indices: Tensor = scores.topk(count).indices.sort().values
    return indices


def _largest_in_heads(scores: Tensor, heads: int, size: int) -> Tensor:
    """Return the indices of the ``size`` largest scores of each head, in the order of the heads."""
    per_head = scores.view(heads, -1)
    starts = torch.arange(heads, device=scores.device)[:, None] * per_head.size(1)
    chosen: Tensor = _largest(per_head, size) + starts
    return chosen.flatten()
