"""What stands between the products, each as one kernel on a GPU, in plain torch elsewhere; all differentiable."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts.contract import has_triton
from moebert.lean.parameters import Embeddings, Norm, needs_gradients
from moebert.routing import winners


def embed(input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, tables: Embeddings) -> Tensor:
    """Compute ``LayerNorm(word + type + position)``, ``[tokens, hidden]``, of three ``[tokens]``."""
    words, types, positions, norm = tables
    if has_kernels(words) and not needs_gradients(words, types, positions, *norm[:2]):
        from moebert.lean import triton_fused

        return triton_fused.embed(input_ids, token_type_ids, position_ids, tables)
    summed = F.embedding(input_ids, words) + F.embedding(token_type_ids, types)
    return norm(summed + F.embedding(position_ids, positions))


def add_norm(x: Tensor, bias: Tensor, residual: Tensor, norm: Norm) -> Tensor:
    """Compute ``LayerNorm(x + bias + residual)`` of ``[tokens, hidden]``."""
    if has_kernels(x):
        from moebert.lean import triton_fused

        return triton_fused.add_norm(x, bias, residual, norm)
    return norm(x + bias + residual)


def add_norm_sorted(x: Tensor, bias: Tensor, residual: Tensor, norm: Norm, order: Tensor) -> Tensor:
    """Compute the same and take its rows in the given order ``[tokens]``."""
    if has_kernels(x) and not needs_gradients(x, bias, residual, *norm[:2]):
        from moebert.lean import triton_fused

        return triton_fused.add_norm_sorted(x, bias, residual, norm, order)
    return add_norm(x, bias, residual, norm).index_select(0, order)


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu(x + bias)`` of ``[tokens, size]``; the exact one, by the normal distribution function."""
    if has_kernels(x):
        from moebert.lean import triton_fused

        return triton_fused.bias_gelu(x, bias)
    return F.gelu(x + bias)


def choose_expert(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probability and the number of the expert that a gate finds likeliest, ``[rows]`` each.

    Args:
        x: ``[rows, hidden]``.
        weight: The gate's, ``[experts, hidden]``.
    """
    if has_kernels(x) and not needs_gradients(x, weight):
        from moebert.lean import triton_fused

        return triton_fused.choose_expert(x, weight)
    _, probability, expert_ids = winners(F.linear(x, weight))
    return probability, expert_ids


def has_kernels(x: Tensor) -> bool:
    """Say whether there are kernels for a tensor's device and precision."""
    known = x.dtype in (torch.float32, torch.bfloat16, torch.float16)
    return x.is_cuda and known and not torch.compiler.is_compiling() and has_triton()
