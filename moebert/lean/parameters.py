"""What the lean encoder takes of a checkpoint's embeddings and LayerNorms."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812


class Norm(NamedTuple):
    """A LayerNorm's parameters.

    Attributes:
        weight: ``[hidden]``.
        bias: ``[hidden]``.
        eps: Added to the variance.
    """

    weight: Tensor
    bias: Tensor
    eps: float

    @classmethod
    def of(cls, module: nn.LayerNorm) -> Norm:
        """Take a module's."""
        return cls(module.weight, module.bias, module.eps)

    def __call__(self, x: Tensor) -> Tensor:
        """Normalise ``[tokens, hidden]`` in plain torch."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)


class Embeddings(NamedTuple):
    """The three tables, ``[entries, hidden]`` each, and their LayerNorm."""

    words: Tensor
    types: Tensor
    positions: Tensor
    norm: Norm


def needs_gradients(*tensors: Tensor) -> bool:
    """Say whether autograd follows one of the tensors."""
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
