"""The parts of a layer as the lean encoder runs them, made of the weights of the modules that it knows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.lean.attention import attend
from moebert.lean.fused import add_norm, add_norm_sorted, linear_gelu
from moebert.lean.parameters import Norm

if TYPE_CHECKING:
    from moebert.lean.stream import Stream


class Attention(NamedTuple):
    """A layer's attention with its residual and LayerNorm.

    Attributes:
        weight: ``[3 * heads * size, hidden]`` of queries, keys and values.
        bias: ``[3 * heads * size]``.
        out: ``[hidden, heads * size]``.
        out_bias: ``[hidden]``.
        norm: After the residual.
        heads: How many this layer has.
        size: Of a head.
    """

    weight: Tensor
    bias: Tensor
    out: Tensor
    out_bias: Tensor
    norm: Norm
    heads: int
    size: int

    @classmethod
    def of(cls, module: Any) -> Attention:
        """Take a BertAttention's."""
        own, output = module.self, module.output
        products = (own.query, own.key, own.value)
        return cls(
            weight=torch.cat([product.weight for product in products]),
            bias=torch.cat([product.bias for product in products]),
            out=output.dense.weight,
            out_bias=output.dense.bias,
            norm=Norm.of(output.LayerNorm),
            heads=own.num_attention_heads,
            size=own.attention_head_size,
        )

    def __call__(self, x: Tensor, stream: Stream) -> Tensor:
        """Run ``[tokens, hidden]``."""
        return add_norm(self.product(x, stream), self.out_bias, x, self.norm)

    def in_order(self, x: Tensor, stream: Stream, order: Tensor) -> Tensor:
        """Run ``[tokens, hidden]``, and give the rows back in another order."""
        return add_norm_sorted(self.product(x, stream), self.out_bias, x, self.norm, order)

    def product(self, x: Tensor, stream: Stream) -> Tensor:
        """Return what bias and residual are to be added to, ``[tokens, hidden]``."""
        attended = attend(F.linear(x, self.weight, self.bias), self.heads, self.size, stream)
        return F.linear(attended, self.out)


class FeedForward(NamedTuple):
    """A dense layer's feed-forward network with its residual and LayerNorm.

    Attributes:
        up: ``[size, hidden]``.
        up_bias: ``[size]``.
        down: ``[hidden, size]``.
        down_bias: ``[hidden]``.
        norm: After the residual.
    """

    up: Tensor
    up_bias: Tensor
    down: Tensor
    down_bias: Tensor
    norm: Norm

    @classmethod
    def of(cls, layer: Any) -> FeedForward:
        """Take a BertLayer's."""
        up, down = layer.intermediate.dense, layer.output.dense
        return cls(up.weight, up.bias, down.weight, down.bias, Norm.of(layer.output.LayerNorm))

    def __call__(self, x: Tensor) -> Tensor:
        """Run ``[tokens, hidden]``."""
        hidden = linear_gelu(x, self.up, self.up_bias)
        return add_norm(F.linear(hidden, self.down), self.down_bias, x, self.norm)
