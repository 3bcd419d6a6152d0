"""Attention scores before the softmax, which no model output carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from bench.errors import UserError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

MASKED = -1e4  # what padding scores before a softmax, as in TinyBERT; finite in half precision too


@contextmanager
def recorded_scores(model: PreTrainedModel, mask: Tensor) -> Iterator[list[Tensor]]:
    """Collect each layer's scores ``[batch, heads, length, length]`` while the model runs.

    Hooks on the query and key projections see them under every attention implementation, dropout and all; the model's
    own ``attentions`` come after softmax and dropout, and not at all from a fused kernel. Padded keys score ``MASKED``.

    Args:
        model: BERT-shaped.
        mask: 1 for tokens, 0 for padding, ``[batch, length]``.

    Raises:
        UserError: Where the model has no query and key projections.
    """
    scores: list[Tensor] = []
    queries: list[Tensor] = []
    handles = []
    for attention in model.modules():
        query, key = getattr(attention, "query", None), getattr(attention, "key", None)
        if isinstance(query, nn.Linear) and isinstance(key, nn.Linear):
            size = int(attention.attention_head_size)
            handles.append(
                query.register_forward_hook(lambda _module, _inputs, output: queries.append(output))
            )
            handles.append(key.register_forward_hook(_scorer(size, mask, queries, scores)))
    if not handles:
        raise UserError(
            f"{type(model).__name__} has no query and key projections to take attention scores from"
        )
    try:
        yield scores
    finally:
        for handle in handles:
            handle.remove()


def _scorer(
    head_size: int, mask: Tensor, queries: list[Tensor], scores: list[Tensor]
) -> Callable[[nn.Module, Any, Tensor], None]:
    """Return the hook of a key projection, which runs after its layer's query projection."""

    def split(states: Tensor) -> Tensor:
        return states.view(*states.shape[:-1], -1, head_size).transpose(1, 2)

    def hook(_module: nn.Module, _inputs: Any, keys: Tensor) -> None:
        products = torch.matmul(split(queries.pop()), split(keys).transpose(2, 3)) * head_size**-0.5
        scores.append(products.masked_fill(mask[:, None, None] == 0, MASKED))

    return hook
