"""What stands between the products, each as one kernel on a GPU, in plain torch elsewhere; all differentiable.

One of them takes its product along, where that is faster.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts.contract import has_triton
from moebert.experts.fused import HALVED
from moebert.lean.parameters import Embeddings, Norm, needs_gradients
from moebert.routing import winners

WORTH_FUSING = 1024  # tokens from which on a product with its GELU was measured to be faster than both apart


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


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu(x W^T + b)`` of ``[tokens, hidden]`` and ``[size, hidden]``; the exact one, as rounded."""
    if len(x) >= WORTH_FUSING and takes_blocks(x, weight) and not needs_gradients(x, weight, bias):
        from moebert.lean.products import product

        return product(x, weight, bias, gelu=True)
    return bias_gelu(F.linear(x, weight), bias)


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


def takes_blocks(x: Tensor, matrix: Tensor) -> bool:
    """Say whether the tensor memory accelerator can feed a product: on Hopper, in half precision.

    Args:
        x: ``[rows, depth]``.
        matrix: ``[..., depth, width]`` or ``[..., width, depth]``.
    """
    if not has_kernels(x) or x.dtype not in HALVED or matrix.dtype != x.dtype:
        return False
    widths = matrix.shape[-2:]
    aligned = all(width > 0 and width % 8 == 0 for width in widths)
    small = max(len(x) * max(widths), matrix.numel()) < 2**31  # offsets are 32 bits
    placed = all(tensor.is_contiguous() and tensor.data_ptr() % 16 == 0 for tensor in (x, matrix))
    return aligned and small and placed and torch.cuda.get_device_capability(x.device) >= (9, 0)
