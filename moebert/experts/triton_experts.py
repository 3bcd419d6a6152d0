"""Launch the Triton kernels: the experts as one differentiable function.

Nothing here waits for the device and no shape depends on data, so a CUDA graph can hold forward and backward passes.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from moebert.experts import triton_gradients as backward_kernels
from moebert.experts import triton_kernels as forward_kernels
from moebert.experts.contract import Dispatch, ExpertWeights, product_dtype

NORMALISED = 16  # elements that a thread normalises at a time
NORM_WARPS, NORM_GRADIENT_WARPS = 8, 4
SUMMED_ROWS = 16  # over which a program of norm_gradient_kernel sums


@dataclass(frozen=True)
class Tiles:
    """How a product is cut: a program's rows, columns, depth of a step; warps, and steps loaded ahead."""

    rows: int
    columns: int
    depth: int
    num_warps: int
    num_stages: int

    def options(self, depth: int) -> dict[str, Any]:
        """Return a kernel's options for a product of the given depth."""
        names = {"rows": "ROWS", "columns": "COLUMNS", "depth": "DEPTH"}
        options = {names.get(name, name): value for name, value in asdict(self).items()}
        return options | {"EVEN": depth % self.depth == 0}


class Settings(NamedTuple):
    """What a call of the experts is given besides tensors.

    Attributes:
        eps: The LayerNorm's epsilon.
        activation: A name that the kernels know.
        dropout: Probability.
        dtype: Precision of the products' operands.
    """

    eps: float
    activation: str
    dropout: float
    dtype: torch.dtype


class Saved(NamedTuple):
    """What the forward pass leaves to the backward pass, besides its arguments.

    Attributes:
        x: ``[tokens, hidden]`` in the products' precision.
        up: W1 in that precision.
        down: W2 in that precision.
        activations: ``[tokens, size]``, sorted.
        slopes: ``[tokens, size]``, sorted, the activation's derivative.
        sums: ``[tokens, hidden]``, what was normalised.
        means: ``[tokens]``, of the sums.
        rates: ``[tokens]``, one over the standard deviations of the sums.
        seed: ``[1]``, of the dropout; None without.
    """

    x: Tensor
    up: Tensor
    down: Tensor
    activations: Tensor
    slopes: Tensor
    sums: Tensor
    means: Tensor
    rates: Tensor
    seed: Tensor | None


def triton_experts(
    tokens: Tensor, dispatch: Dispatch, weights: ExpertWeights, activation: str, dropout: float
) -> Tensor:
    """Run all experts on ``[tokens, hidden]``; see the contract, but for the activation, which is a name."""
    settings = Settings(weights.norm_eps, activation, dropout, product_dtype(tokens))
    if dispatch.probability is not None:  # kernels know no strides; one row's may be one element, repeated
        dispatch = dispatch._replace(probability=dispatch.probability.contiguous())
    tensors = (tokens, dispatch.probability, *weights[:-1])
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        outputs: Tensor = _Experts.apply(settings, *dispatch[:-1], *tensors)  # type: ignore[no-untyped-call]
        return outputs
    return _forward(settings, dispatch, weights, tokens, keep=False)[0]


class _Experts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, settings: Settings, expert_ids: Tensor, order: Tensor, ends: Tensor, *tensors: Any
    ) -> Tensor:
        tokens, probability, *weights = tensors
        dispatch = Dispatch(expert_ids, order, ends, probability)
        outputs, saved = _forward(
            settings, dispatch, ExpertWeights._make([*weights, settings.eps]), tokens, keep=True
        )
        ctx.settings = settings
        ctx.save_for_backward(*dispatch, *weights, *saved)
        return outputs

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[Tensor | None, ...]:
        tensors = ctx.saved_tensors
        dispatch, saved = Dispatch(*tensors[:4]), Saved(*tensors[10:])
        weights = ExpertWeights._make([*tensors[4:10], ctx.settings.eps])
        found = _backward(ctx.settings, dispatch, weights, saved, gradients.contiguous())
        return None, None, None, None, *found


def _forward(
    settings: Settings, dispatch: Dispatch, weights: ExpertWeights, tokens: Tensor, *, keep: bool
) -> tuple[Tensor, Saved]:
    """Return the outputs, and what the backward pass needs if it is to come."""
    up, up_bias, down, down_bias, norm, norm_bias, _ = weights
    tokens = tokens.contiguous()
    (count, hidden), (experts, _, size) = tokens.shape, up.shape
    x, up, down = tokens.to(settings.dtype), up.to(settings.dtype), down.to(settings.dtype)
    seed = torch.randint(2**32, (1,), device=x.device) if settings.dropout > 0 else None
    cut = product_tiles(count, experts)
    tiles = tile_bound(count, experts, cut.rows)
    activations = x.new_empty(count, size)
    slopes = torch.empty_like(activations) if keep else activations
    outputs = torch.empty_like(tokens)
    sums = torch.empty_like(outputs) if keep else outputs
    forward_kernels.up_kernel[(tiles * triton.cdiv(size, cut.columns),)](
        x,
        dispatch.order,
        dispatch.ends,
        up,
        up_bias,
        activations,
        slopes,
        hidden,
        size,
        experts,
        KEEP=keep,
        ACTIVATION=settings.activation,
        PRECISION=_precision(settings.dtype),
        **cut.options(hidden),
    )
    forward_kernels.down_kernel[(tiles * triton.cdiv(hidden, cut.columns),)](
        activations,
        tokens,
        dispatch.order,
        dispatch.ends,
        down,
        down_bias,
        seed,
        sums,
        hidden,
        size,
        experts,
        settings.dropout,
        _scale(settings.dropout),
        DROPOUT=seed is not None,
        PRECISION=_precision(settings.dtype),
        **cut.options(size),
    )
    means, rates = torch.empty(2, count, dtype=torch.float32, device=x.device)
    width = triton.next_power_of_2(hidden)
    rows = _rows_at_once(width, NORM_WARPS)
    forward_kernels.norm_kernel[(triton.cdiv(count, rows),)](
        sums,
        dispatch.order,
        dispatch.expert_ids,
        norm,
        norm_bias,
        dispatch.probability,
        outputs,
        means,
        rates,
        count,
        hidden,
        settings.eps,
        GATED=dispatch.probability is not None,
        KEEP=keep,
        ROWS=rows,
        WIDTH=width,
        num_warps=NORM_WARPS,
    )
    return outputs, Saved(x, up, down, activations, slopes, sums, means, rates, seed)


def _backward(
    settings: Settings, dispatch: Dispatch, weights: ExpertWeights, saved: Saved, gradients: Tensor
) -> tuple[Tensor | None, ...]:
    """Return the gradients of tokens, probability and weights."""
    _, order, ends, probability = dispatch
    (count, hidden), (experts, _, size) = gradients.shape, weights.up.shape
    norm_sums = weights.norm.new_empty(3, experts, hidden)
    up_bias = torch.empty_like(weights.up_bias)
    token_gradients = torch.empty_like(saved.sums)
    probability_gradients = None if probability is None else torch.empty_like(probability)
    precision = _precision(settings.dtype)

    apart = saved.seed is not None or gradients.dtype != settings.dtype
    sum_gradients = torch.empty_like(gradients)
    product_gradients = torch.empty_like(saved.x) if apart else sum_gradients
    tiles = tile_bound(count, experts, SUMMED_ROWS)
    width = triton.next_power_of_2(hidden)
    tile_sums = gradients.new_empty(tiles, 3, hidden, dtype=torch.float32)
    backward_kernels.norm_gradient_kernel[(tiles,)](
        gradients,
        saved.sums,
        saved.means,
        saved.rates,
        order,
        ends,
        weights.norm,
        weights.norm_bias,
        probability,
        saved.seed,
        sum_gradients,
        product_gradients,
        probability_gradients,
        tile_sums,
        hidden,
        experts,
        settings.dropout,
        _scale(settings.dropout),
        GATED=probability is not None,
        DROPOUT=saved.seed is not None,
        APART=apart,
        ROWS=SUMMED_ROWS,
        WIDTH=width,
        CHUNK=min(_rows_at_once(width, NORM_GRADIENT_WARPS), SUMMED_ROWS),
        num_warps=NORM_GRADIENT_WARPS,
    )
    _sum_tiles(tile_sums, ends, norm_sums, SUMMED_ROWS)

    cut = product_tiles(count, experts)
    tiles = tile_bound(count, experts, cut.rows)
    pre_gradients = torch.empty_like(saved.activations)
    tile_sums = gradients.new_empty(tiles, 1, size, dtype=torch.float32)
    backward_kernels.activation_gradient_kernel[(tiles * triton.cdiv(size, cut.columns),)](
        product_gradients,
        ends,
        saved.down,
        saved.slopes,
        pre_gradients,
        tile_sums,
        hidden,
        size,
        experts,
        PRECISION=precision,
        **cut.options(hidden),
    )
    _sum_tiles(tile_sums, ends, up_bias.unsqueeze(0), cut.rows)

    backward_kernels.token_gradient_kernel[(tiles * triton.cdiv(hidden, cut.columns),)](
        pre_gradients,
        sum_gradients,
        order,
        ends,
        saved.up,
        token_gradients,
        hidden,
        size,
        experts,
        PRECISION=precision,
        **cut.options(size),
    )
    up = torch.empty_like(weights.up)
    _weight_gradient(saved.x, pre_gradients, order, ends, up, precision, gathered=True)
    down = torch.empty_like(weights.down)
    _weight_gradient(saved.activations, product_gradients, order, ends, down, precision, gathered=False)
    norm, norm_bias, down_bias = norm_sums
    return token_gradients, probability_gradients, up, up_bias, down, down_bias, norm, norm_bias


def _weight_gradient(
    inputs: Tensor,
    gradients: Tensor,
    order: Tensor,
    ends: Tensor,
    out: Tensor,
    precision: str,
    *,
    gathered: bool,
) -> None:
    """Fill ``out`` ``[experts, in, out]`` with inputs' transpose times gradients, of each expert's tokens."""
    experts, rows, columns = out.shape
    cut = weight_tiles(len(inputs), experts)
    backward_kernels.weight_gradient_kernel[
        (experts * triton.cdiv(rows, cut.rows) * triton.cdiv(columns, cut.columns),)
    ](
        inputs,
        gradients,
        order,
        ends,
        out,
        rows,
        columns,
        GATHERED=gathered,
        PRECISION=precision,
        ROWS=cut.rows,
        COLUMNS=cut.columns,
        DEPTH=cut.depth,
        num_warps=cut.num_warps,
        num_stages=cut.num_stages,
    )


def _sum_tiles(tile_sums: Tensor, ends: Tensor, totals: Tensor, rows: int) -> None:
    """Fill ``totals`` ``[vectors, experts, width]`` with the sums over each expert's tiles."""
    vectors, experts, width = totals.shape
    columns = 64
    backward_kernels.sum_tiles_kernel[(experts, triton.cdiv(vectors * width, columns))](
        tile_sums, ends, totals, vectors, width, experts, ROWS=rows, TILES=32, COLUMNS=columns
    )


def tile_bound(tokens: int, experts: int, rows: int) -> int:
    """Return how many tiles of so many rows tokens can fill, however they are dealt to experts."""
    return (tokens + min(tokens, experts) * (rows - 1)) // rows


def product_tiles(tokens: int, experts: int) -> Tiles:
    """Return how to cut a product of sorted tokens; measured on an H100."""
    rows = tokens / experts
    if rows <= 48:
        return Tiles(16, 64, 128, 4, 4)
    if rows <= 256:
        return Tiles(64, 64, 128, 4, 3)
    if rows <= 1536:
        return Tiles(64, 128, 64, 4, 4)
    return Tiles(128, 128, 64, 8, 3)


def weight_tiles(tokens: int, experts: int) -> Tiles:
    """Return how to cut the gradients of the experts' matrices; measured on an H100."""
    rows = tokens / experts
    if rows <= 384:
        return Tiles(64, 64, 32, 4, 5)
    if rows <= 1536:
        return Tiles(64, 128, 64, 4, 3)
    return Tiles(128, 128, 32, 4, 5)


def _rows_at_once(width: int, num_warps: int) -> int:
    """Return how many rows of a width, a power of two, a program normalises at a time."""
    return max(NORMALISED * 32 * num_warps // width, 1)


def _precision(dtype: torch.dtype) -> str:
    """Return Triton's name for how float32 operands are multiplied; exactly, unless torch's setting says else."""
    tf32 = dtype == torch.float32 and torch.backends.cuda.matmul.fp32_precision == "tf32"
    return "tf32" if tf32 else "ieee"


def _scale(dropout: float) -> float:
    return 1 / (1 - dropout) if dropout < 1 else 0.0
