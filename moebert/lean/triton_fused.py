"""Launch the lean encoder's Triton kernels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from moebert.lean import triton_kernels as kernels
from moebert.lean.parameters import Embeddings, Norm, needs_gradients

if TYPE_CHECKING:
    from moebert.experts import Dispatch

COLUMNS, NUM_WARPS = 1024, 4


def embed(input_ids: Tensor, token_type_ids: Tensor, position_ids: Tensor, tables: Embeddings) -> Tensor:
    """Compute ``LayerNorm(word + type + position)``; not differentiable."""
    tokens, hidden = len(input_ids), tables.words.shape[1]
    outputs = tables.words.new_empty(tokens, hidden)
    if tokens:
        ids = (input_ids, token_type_ids, position_ids)
        grid, cut = whole_rows(tokens, hidden)
        kernels.embed_kernel[grid](
            *ids, *tables[:3], *tables.norm[:2], outputs, tokens, hidden, tables.norm.eps, **cut
        )
    return outputs


def add_norm(x: Tensor, bias: Tensor, residual: Tensor, norm: Norm) -> Tensor:
    """Compute ``LayerNorm(x + bias + residual)``."""
    tensors = (x.contiguous(), bias, residual.contiguous(), norm.weight, norm.bias)
    if needs_gradients(*tensors):
        outputs: Tensor = _AddNorm.apply(*tensors, norm.eps)  # type: ignore[no-untyped-call]
        return outputs
    return _add_norm(*tensors, norm.eps)


def add_norm_sorted(x: Tensor, bias: Tensor, residual: Tensor, norm: Norm, order: Tensor) -> Tensor:
    """Compute the same with its rows in another order, which costs nothing; not differentiable."""
    x, residual = x.contiguous(), residual.contiguous()
    return _add_norm(x, bias, residual, norm.weight, norm.bias, norm.eps, order=order)


def expert_norm(
    x: Tensor, residual: Tensor, dispatch: Dispatch, weight: Tensor, bias: Tensor, eps: float
) -> Tensor:
    """Compute ``LayerNorm_e(x + residual)`` of sorted rows, back in the order of the tokens; not differentiable."""
    outputs = torch.empty_like(x)
    grid, cut = whole_rows(*x.shape)
    order, expert_ids = dispatch.order, dispatch.expert_ids
    kernels.expert_norm_kernel[grid](
        x, residual, order, expert_ids, weight, bias, outputs, *x.shape, eps, **cut
    )
    return outputs


def bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    """Compute ``gelu(x + bias)``."""
    x = x.contiguous()
    if needs_gradients(x, bias):
        outputs: Tensor = _BiasGelu.apply(x, bias)  # type: ignore[no-untyped-call]
        return outputs
    return _bias_gelu(x, bias)


def choose_expert(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Return the likeliest expert's probability and number; not differentiable."""
    probabilities = x.new_empty(len(x))
    expert_ids = torch.empty(len(x), dtype=torch.int64, device=x.device)
    if len(x):
        cut = {"ROWS": 1, "WIDTH": triton.next_power_of_2(x.shape[1]), "num_warps": 1}  # sums cross no warps
        kernels.gate_kernel[(len(x), 1)](
            x.contiguous(), weight, probabilities, expert_ids, *x.shape, len(weight), **cut
        )
    return probabilities, expert_ids


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, norm_bias: Tensor, eps: float
    ) -> Tensor:
        sums = torch.empty_like(x)
        means, rates = torch.empty(2, len(x), 1, dtype=torch.float32, device=x.device)
        ctx.save_for_backward(sums, means, rates, weight, norm_bias)
        return _add_norm(x, bias, residual, weight, norm_bias, eps, (sums, means, rates))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        sums, means, rates, weight, norm_bias = ctx.saved_tensors
        total, *of_norm = torch.ops.aten.native_layer_norm_backward(
            gradients.contiguous(), sums, weight.shape, means, rates, weight, norm_bias, [True] * 3
        )
        return total, total.sum(0), total, *of_norm, None


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, bias)
        return _bias_gelu(x, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor, Tensor]:
        x, bias = ctx.saved_tensors
        found = torch.empty_like(x)
        if x.numel():
            grid, cut = _blocks(*x.shape)
            kernels.bias_gelu_gradient_kernel[grid](gradients.contiguous(), x, bias, found, *x.shape, **cut)
        return found, found.sum(0)


def _add_norm(
    x: Tensor,
    bias: Tensor,
    residual: Tensor,
    weight: Tensor,
    norm_bias: Tensor,
    eps: float,
    kept: tuple[Tensor, Tensor, Tensor] | None = None,
    order: Tensor | None = None,
) -> Tensor:
    outputs = torch.empty_like(x)
    if len(x):
        grid, cut = whole_rows(*x.shape)
        rest = kept or (None,) * 3
        cut |= {"KEEP": kept is not None, "SORTED": order is not None}
        kernels.add_norm_kernel[grid](
            x, bias, residual, order, weight, norm_bias, outputs, *rest, *x.shape, eps, **cut
        )
    return outputs


def _bias_gelu(x: Tensor, bias: Tensor) -> Tensor:
    outputs = torch.empty_like(x)
    if x.numel():
        grid, cut = _blocks(*x.shape)
        kernels.bias_gelu_kernel[grid](x, bias, outputs, *x.shape, **cut)
    return outputs


def whole_rows(tokens: int, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Return the grid and the cut for programs that have whole rows; few rows where there are few."""
    columns = triton.next_power_of_2(width)
    warps = NUM_WARPS if tokens < 2048 else 2 * NUM_WARPS
    rows = 1 if tokens < 2048 else max(4096 // columns, 1)
    return (triton.cdiv(tokens, rows), 1), {"ROWS": rows, "WIDTH": columns, "num_warps": warps}


def _blocks(tokens: int, width: int) -> tuple[tuple[int, int], dict[str, int]]:
    """Return the grid and the cut for programs that have a part of each row."""
    columns = min(triton.next_power_of_2(width), COLUMNS)
    rows = 1 if tokens < 2048 else max(4096 // columns, 1)
    grid = triton.cdiv(tokens, rows), triton.cdiv(width, columns)
    return grid, {"ROWS": rows, "COLUMNS": columns, "num_warps": NUM_WARPS}
