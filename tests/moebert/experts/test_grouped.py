"""Every implementation of the experts against the dumb loop, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts import ExpertWeights, Implementation, sort_by_expert
from moebert.experts.grouped import all_at_once, expert_by_expert, grouped_experts
from moebert.experts.reference import reference_experts

EPS = 1e-5  # at 1e-12 two close units of a narrow row would magnify rounding without end


def random_weights(
    experts: int, hidden: int, size: int, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> ExpertWeights:
    shapes = {
        "up": (experts, hidden, size),
        "up_bias": (experts, size),
        "down": (experts, size, hidden),
        "down_bias": (experts, hidden),
        "norm": (experts, hidden),
        "norm_bias": (experts, hidden),
    }
    tensors = {name: torch.randn(shape, dtype=torch.float64) for name, shape in shapes.items()}
    return ExpertWeights(
        **{name: value.to(device, dtype).requires_grad_() for name, value in tensors.items()}, norm_eps=EPS
    )


def outputs_and_gradients(
    run: Implementation, tokens: Tensor, ids: Tensor, weights: ExpertWeights, upstream: Tensor
) -> list[Tensor]:
    """Return the outputs, and the gradients of the tokens and of all weights."""
    inputs = [tokens.detach().requires_grad_(), *weights[:-1]]
    outputs = run(inputs[0], sort_by_expert(ids, len(weights.up)), weights, F.gelu, 0.0)
    gradients = torch.autograd.grad(outputs, inputs, upstream, materialize_grads=True, allow_unused=True)
    return [outputs.detach(), *gradients]


@pytest.mark.parametrize("run", [expert_by_expert, all_at_once, grouped_experts])
@given(
    tokens=st.integers(0, 70),
    experts=st.integers(1, 64),
    hidden=st.integers(3, 20),
    size=st.integers(1, 20),
    data=st.data(),
)
@settings(max_examples=40, deadline=None)
def test_every_shape_equals_the_loop_forward_and_backward(
    run: Implementation, tokens: int, experts: int, hidden: int, size: int, data: Any
) -> None:
    visited = data.draw(st.integers(1, experts), label="experts that any token visits")
    torch.manual_seed(data.draw(st.integers(0, 1000), label="seed"))
    x, upstream = torch.randn(2, tokens, hidden, dtype=torch.float64)
    ids = torch.randperm(experts)[torch.randint(visited, (tokens,))]
    weights = random_weights(experts, hidden, size)
    found = outputs_and_gradients(run, x, ids, weights, upstream)
    expected = outputs_and_gradients(reference_experts, x, ids, weights, upstream)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("run", [expert_by_expert, all_at_once])
@pytest.mark.parametrize("tokens", [1, 1500])
def test_one_token_and_many(run: Implementation, tokens: int) -> None:
    x, upstream = torch.randn(2, tokens, 12, dtype=torch.float64)
    ids, weights = torch.randint(5, (tokens,)), random_weights(7, 12, 10)
    found = outputs_and_gradients(run, x, ids, weights, upstream)
    expected = outputs_and_gradients(reference_experts, x, ids, weights, upstream)
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


def test_an_expert_nobody_visits_gets_a_zero_gradient() -> None:
    x, upstream = torch.randn(2, 9, 6, dtype=torch.float64)
    ids, weights = torch.tensor([0, 2] * 4 + [0]), random_weights(4, 6, 5)
    for gradient in outputs_and_gradients(grouped_experts, x, ids, weights, upstream)[2:]:
        assert gradient[[1, 3]].abs().sum() == 0
        assert (gradient[[0, 2]].flatten(1).abs().sum(1) > 0).all()


@pytest.mark.parametrize("run", [reference_experts, expert_by_expert, all_at_once])
def test_dropout_hits_the_second_product_and_spares_the_residual(run: Implementation) -> None:
    x, weights = torch.randn(400, 6, dtype=torch.float64), random_weights(2, 6, 5)
    ids = torch.arange(400) % 2
    normed = run(x, sort_by_expert(ids, 2), weights, F.gelu, 1.0)
    alone = F.layer_norm(x, (6,), eps=EPS) * weights.norm[ids] + weights.norm_bias[ids]
    torch.testing.assert_close(normed, alone, rtol=1e-9, atol=1e-9)


def test_dispatches_of_all_layers_are_sorted_at_once() -> None:
    ids = torch.randint(5, (3, 40))
    stacked = sort_by_expert(ids, 7)
    for layer in range(3):
        own = stacked.layer(layer)
        expected = [token for expert in range(7) for token in range(40) if ids[layer, token] == expert]
        assert own.order.tolist() == expected
        counts = [int((ids[layer] == expert).sum()) for expert in range(7)]
        assert own.ends.tolist() == torch.tensor(counts).cumsum(0).tolist()


def rounded(weights: ExpertWeights, dtype: torch.dtype) -> list[ExpertWeights]:
    """Return the weights in a precision, and the same values in double precision."""
    low = [weight.detach().to(dtype) for weight in weights[:-1]]
    return [
        ExpertWeights(*(weight.to(precision).requires_grad_() for weight in low), norm_eps=EPS)
        for precision in (dtype, torch.float64)
    ]


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-5), (torch.bfloat16, 2e-2)]
)
@pytest.mark.parametrize(
    ("tokens", "hidden", "size"), [(1, 64, 48), (777, 64, 48), (3000, 256, 256), (300, 30, 21)]
)
def test_every_precision_keeps_the_loops_results_without_waiting_for_the_device(
    device: str, dtype: torch.dtype, tolerance: float, tokens: int, hidden: int, size: int
) -> None:
    x, upstream = torch.randn(2, tokens, hidden).to(device, dtype)
    ids = torch.randint(3, (tokens,), device=device)
    scaled = ExpertWeights(*(weight / hidden**0.5 for weight in random_weights(4, hidden, size)[:-1]), EPS)
    weights, exact = rounded(ExpertWeights(*(weight.to(device) for weight in scaled[:-1]), EPS), dtype)
    expected = outputs_and_gradients(reference_experts, x.double(), ids, exact, upstream.double())
    outputs_and_gradients(all_at_once, x, ids, weights, upstream)
    if device == "cuda":
        torch.cuda.set_sync_debug_mode("error")
    try:
        found = outputs_and_gradients(all_at_once, x, ids, weights, upstream)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.double() - theirs).norm() <= tolerance * theirs.norm()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_holds_the_experts_whatever_the_routing(dtype: torch.dtype) -> None:
    x, ids = torch.randn(300, 64, device="cuda", dtype=dtype), torch.randint(4, (300,), device="cuda")
    weights = random_weights(4, 64, 48, dtype, "cuda")

    def forward() -> Tensor:
        with torch.no_grad():
            return grouped_experts(x, sort_by_expert(ids, 4), weights, F.gelu, 0.0)

    forward()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward()
    for lean in (0, 3):
        ids.copy_(torch.where(torch.rand(300, device="cuda") < 0.8, lean, ids))
        graph.replay()
        torch.testing.assert_close(captured, forward())
