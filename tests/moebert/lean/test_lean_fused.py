"""The Triton kernels against plain torch in double precision; on a CPU by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from kernel_devices import DEVICES
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.lean.fused import add_norm, bias_gelu, embed
from moebert.lean.parameters import Embeddings, Norm

SHAPES = pytest.mark.parametrize(("tokens", "width"), [(5, 48), (1, 7), (0, 16), (2051, 24), (3, 1100)])
PRECISIONS = pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2), (torch.float16, 1e-3)]
)


def case(dtype: torch.dtype, *shapes: tuple[int, ...]) -> list[Tensor]:
    """Draw values that a precision can hold, in double precision."""
    torch.manual_seed(0)
    return [torch.randn(shape).to(dtype).double() for shape in shapes]


def run(function: object, inputs: list[Tensor], upstream: Tensor) -> list[Tensor]:
    """Return outputs and gradients."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    outputs = function(*leaves)  # type: ignore[operator]
    return [outputs.detach(), *torch.autograd.grad(outputs, leaves, upstream)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.shape == theirs.shape
        assert (ours.double().cpu() - theirs).norm() <= tolerance * theirs.norm().clamp(min=1e-2)


@DEVICES
@SHAPES
@PRECISIONS
def test_bias_and_gelu(device: str, tokens: int, width: int, dtype: torch.dtype, tolerance: float) -> None:
    from moebert.lean import triton_fused

    *inputs, upstream = case(dtype, (tokens, width), (width,), (tokens, width))
    expected = run(lambda x, bias: F.gelu(x + bias), inputs, upstream)
    given = [tensor.to(device, dtype) for tensor in inputs]
    assert_close(run(triton_fused.bias_gelu, given, upstream.to(device, dtype)), expected, tolerance)
    assert_close([triton_fused.bias_gelu(*given)], expected[:1], tolerance)


@DEVICES
@SHAPES
@PRECISIONS
def test_bias_residual_and_layernorm(
    device: str, tokens: int, width: int, dtype: torch.dtype, tolerance: float
) -> None:
    from moebert.lean import triton_fused

    x, bias, residual, weight, norm_bias, upstream = case(
        dtype, (tokens, width), (width,), (tokens, width), (width,), (width,), (tokens, width)
    )
    inputs = [x, bias, residual, weight, norm_bias]

    def dumb(x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, norm_bias: Tensor) -> Tensor:
        return F.layer_norm(x + bias + residual, (width,), weight, norm_bias, 1e-5)

    def fused(x: Tensor, bias: Tensor, residual: Tensor, weight: Tensor, norm_bias: Tensor) -> Tensor:
        return triton_fused.add_norm(x, bias, residual, Norm(weight, norm_bias, 1e-5))

    expected = run(dumb, inputs, upstream)
    given = [tensor.to(device, dtype) for tensor in inputs]
    if device == "cuda" or dtype == torch.float32:  # torch's gradient on a CPU takes no mix of precisions
        assert_close(run(fused, given, upstream.to(device, dtype)), expected, 2 * tolerance)
    assert_close([fused(*given)], expected[:1], tolerance)


@DEVICES
@SHAPES
@PRECISIONS
def test_embeddings(device: str, tokens: int, width: int, dtype: torch.dtype, tolerance: float) -> None:
    from moebert.lean import triton_fused

    words, types, positions, weight, norm_bias = case(
        dtype, (50, width), (2, width), (9, width), (width,), (width,)
    )
    ids = [torch.randint(entries, (tokens,)) for entries in (50, 2, 9)]
    expected = embed(*ids, Embeddings(words, types, positions, Norm(weight, norm_bias, 1e-5)))
    own = [table.to(device, dtype) for table in (words, types, positions, weight, norm_bias)]
    tables = Embeddings(own[0], own[1], own[2], Norm(own[3], own[4], 1e-5))
    found = triton_fused.embed(*(some.to(device) for some in ids), tables)
    assert found.dtype == dtype
    assert_close([found], [expected], tolerance)


@DEVICES
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("rows", "experts", "hidden"), [(5, 4, 48), (131, 3, 24), (0, 2, 8), (3, 64, 1100)])
def test_a_gates_choice(device: str, dtype: torch.dtype, rows: int, experts: int, hidden: int) -> None:
    from moebert.lean import triton_fused

    x, weight = case(dtype, (rows, hidden), (experts, hidden))
    weight[-1] = weight[0]  # of equals the first wins
    expected, winner = F.linear(x, weight).softmax(-1).max(-1) if rows else (x[:, 0], x[:, 0].long())
    winner = winner.where(winner != experts - 1, 0)
    found, ids = triton_fused.choose_expert(x.to(device, dtype), weight.to(device, dtype))
    assert ids.tolist() == winner.tolist()
    assert_close([found], [expected], 1e-6 if dtype == torch.float32 else 1e-2)


def test_without_kernels_torch_says_the_same() -> None:
    x, bias, residual, weight, norm_bias = case(torch.float64, (4, 6), (6,), (4, 6), (6,), (6,))
    torch.testing.assert_close(bias_gelu(x, bias), F.gelu(x + bias))
    expected = F.layer_norm(x + bias + residual, (6,), weight, norm_bias, 1e-3)
    torch.testing.assert_close(add_norm(x, bias, residual, Norm(weight, norm_bias, 1e-3)), expected)


@pytest.mark.gpu
def test_on_a_gpu_the_kernels_are_what_runs() -> None:
    from torch.profiler import ProfilerActivity, profile

    x, bias, weight = (tensor.cuda().bfloat16() for tensor in case(torch.bfloat16, (4, 64), (64,), (64,)))
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        add_norm(bias_gelu(x, bias), bias, x, Norm(weight, bias, 1e-5))
        torch.cuda.synchronize()
    kernels = {event.key for event in profiler.key_averages()}
    assert {"bias_gelu_kernel", "add_norm_kernel"} <= kernels
