"""The Triton kernels against the dumb loop in double precision; on a CPU by Triton's interpreter."""

from __future__ import annotations

import os
from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from expert_cases import EPS, assert_close, differentiate, random_case, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts import ExpertWeights, fused, sort_by_expert


def why_not_interpreted() -> str | None:
    """Return what keeps the kernels from running on a CPU."""
    if find_spec("triton") is None:
        return "triton is not installed"
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "TRITON_INTERPRET=1 is not set"
    import triton
    from triton import language as tl

    @triton.jit
    def count_to(count, found):
        for number in range(count):
            tl.store(found, number)

    try:
        count_to[(1,)](3, torch.zeros(1))
    except triton.runtime.errors.InterpreterError as error:
        return f"triton {triton.__version__} does not interpret with this numpy: {error}"
    return None


WHY_NOT = why_not_interpreted()
INTERPRETED = pytest.param(
    "cpu", marks=[pytest.mark.triton, pytest.mark.skipif(WHY_NOT is not None, reason=str(WHY_NOT))]
)
COMPILED = pytest.param("cuda", marks=pytest.mark.gpu)
DEVICES = pytest.mark.parametrize("device", [INTERPRETED, COMPILED])


@pytest.fixture
def no_host_sync() -> Iterator[None]:
    if not torch.cuda.is_available():
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    yield
    torch.cuda.set_sync_debug_mode("default")


def rounded(case: dict[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    """Return the case with values that the precision can hold, so that only arithmetic is compared."""
    return {key: value if key == "ids" else value.to(dtype).double() for key, value in case.items()}


def compare(case: dict[str, Tensor], device: str, dtype: torch.dtype, tolerance: float) -> None:
    case = rounded(case, dtype)
    found = run("kernels", case, device, dtype)
    assert_close(found, run("reference", case, device, torch.float64), tolerance)


@DEVICES
@given(
    tokens=st.sampled_from([0, 1, 2, 17, 31]),
    experts=st.integers(1, 64),
    hidden=st.integers(3, 40),
    size=st.integers(1, 40),
    gated=st.booleans(),
    data=st.data(),
)
@settings(max_examples=5, deadline=None)
def test_every_shape_equals_the_loop_in_single_precision(
    device: str, tokens: int, experts: int, hidden: int, size: int, gated: bool, data: Any
) -> None:
    visited = data.draw(st.integers(1, experts), label="experts that any token visits")
    torch.manual_seed(data.draw(st.integers(0, 1000), label="seed"))
    case = random_case(tokens, experts, hidden, size, visited=visited, gated=gated)
    compare(case, device, torch.float32, 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("tokens", "experts", "hidden", "size"),
    [
        (1, 4, 768, 768),  # each of the ways to cut a product
        (150, 4, 384, 384),
        (700, 4, 384, 384),
        (5000, 4, 768, 768),
        (5001, 3, 200, 130),
        (900, 64, 96, 40),
        (3000, 2, 1024, 512),
    ],
)
def test_every_way_to_cut_a_product_keeps_the_loops_results_without_waiting_for_the_device(
    tokens: int,
    experts: int,
    hidden: int,
    size: int,
    dtype: torch.dtype,
    tolerance: float,
    no_host_sync: None,
) -> None:
    torch.cuda.set_sync_debug_mode("default")
    case = rounded(random_case(tokens, experts, hidden, size, visited=max(experts - 1, 1)), dtype)
    expected = run("reference", case, "cuda", torch.float64)
    on_device = {key: value.cuda() for key, value in case.items()}
    run("kernels", on_device, "cuda", dtype)  # compiling may wait
    torch.cuda.set_sync_debug_mode("error")
    found = run("kernels", on_device, "cuda", dtype)
    torch.cuda.set_sync_debug_mode("default")
    assert_close(found, expected, tolerance)


@DEVICES
def test_an_empty_batch_has_outputs_and_zero_gradients(device: str) -> None:
    outputs, *gradients = run("kernels", random_case(0, 3, 16, 8), device, torch.float32)
    assert outputs.shape == (0, 16)
    assert all(gradient.abs().sum() == 0 for gradient in gradients)


@DEVICES
@pytest.mark.parametrize("activation", sorted(fused.ACTIVATIONS))
def test_the_kernels_activations_are_transformers(device: str, activation: str) -> None:
    case = rounded(random_case(60, 2, 24, 16), torch.float32)
    found = run("kernels", case, device, torch.float32, activation)
    assert_close(found, run("reference", case, device, torch.float64, activation), 1e-5)


@DEVICES
def test_under_autocast_products_are_halved_and_the_residual_is_not(device: str) -> None:
    case = rounded(random_case(60, 2, 32, 16), torch.float32)
    halved = torch.float16 if device == "cpu" else torch.bfloat16  # the interpreter cannot multiply bfloat16
    with torch.autocast(device, halved):
        found = run("kernels", case, device, torch.float32)
    assert [tensor.dtype for tensor in found] == [torch.float32] * len(found)
    expected = run("reference", case, device, torch.float64)
    assert_close(found, expected, 1e-2)
    case["up"], case["down"] = torch.zeros_like(case["up"]), torch.zeros_like(case["down"])
    with torch.autocast(device, halved):
        residual_alone = run("kernels", case, device, torch.float32)[0]
    assert_close([residual_alone], [run("reference", case, device, torch.float64)[0]], 1e-5)


@DEVICES
def test_dropout_hits_the_second_product_at_its_rate_and_spares_the_residual(device: str) -> None:
    case = random_case(50, 2, 24, 16, gated=False)
    gone = run("kernels", case, device, torch.float32, dropout=1.0)[0]
    alone = F.layer_norm(case["tokens"], (24,), eps=EPS) * case["norm"][case["ids"]]
    assert_close([gone.cpu()], [alone + case["norm_bias"][case["ids"]]], 1e-5)
    torch.manual_seed(1)
    first = run("kernels", case, device, torch.float32, dropout=0.25)
    torch.manual_seed(1)
    again = run("kernels", case, device, torch.float32, dropout=0.25)
    other = run("kernels", case, device, torch.float32, dropout=0.25)
    assert all(torch.equal(one, two) for one, two in zip(first, again, strict=True))
    assert not torch.equal(first[0], other[0])


@DEVICES
def test_dropout_keeps_a_share_scales_it_and_goes_back_the_same_way(device: str) -> None:
    tokens, hidden = 300, 48
    case = random_case(tokens, 1, hidden, 8, gated=False)
    case |= {"tokens": torch.zeros_like(case["tokens"]), "down": torch.zeros_like(case["down"])}
    case["down_bias"] = torch.arange(1.0, hidden + 1, dtype=torch.float64).unsqueeze(0)
    torch.manual_seed(3)
    outputs, *gradients = run("kernels", case, device, torch.float32, dropout=0.25)
    # the smallest of a normalised row are the dropped ones: undo the normalisation to see what was kept
    unit = (outputs.cpu().double() - case["norm_bias"]) / case["norm"]
    lowest = unit.min(1, keepdim=True).values
    kept = unit - lowest > 1e-4
    share = kept.double().mean().item()
    assert abs(share - 0.75) < 4 * (0.75 * 0.25 / kept.numel()) ** 0.5
    leaf = case["down_bias"].clone().requires_grad_()
    masked = F.layer_norm(leaf * kept / 0.75, (hidden,), eps=EPS) * case["norm"] + case["norm_bias"]
    assert_close([outputs.cpu()], [masked.detach()], 1e-5)
    (expected,) = torch.autograd.grad(masked, leaf, case["upstream"])
    names = [key for key in case if key not in ("ids", "upstream")]
    assert_close([gradients[names.index("down_bias")].cpu()], [expected], 1e-5)


@DEVICES
@given(
    layers=st.integers(1, 3), tokens=st.integers(0, 3000), experts=st.integers(1, 64), seed=st.integers(0, 99)
)
@settings(max_examples=15, deadline=None)
def test_counting_sorts_as_torch_does(device: str, layers: int, tokens: int, experts: int, seed: int) -> None:
    from moebert.experts.triton_sort import counting_sort

    ids = torch.randint(experts, (layers, tokens), generator=torch.Generator().manual_seed(seed))
    expected = sort_by_expert(ids, experts)
    assert expected.order.device.type == "cpu"
    order, ends = counting_sort(ids.to(device), experts)
    assert torch.equal(order.cpu(), expected.order)
    assert torch.equal(ends.cpu(), expected.ends)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_cuda_graph_holds_forward_and_backward_whatever_the_routing(dtype: torch.dtype) -> None:
    case = random_case(300, 4, 64, 48)
    leaves = {
        key: value.to("cuda", dtype).requires_grad_()
        for key, value in case.items()
        if key not in ("ids", "upstream")
    }
    ids, upstream = case["ids"].cuda(), case["upstream"].to("cuda", dtype)
    weights = ExpertWeights(**{key: leaves[key] for key in ExpertWeights._fields[:-1]}, norm_eps=EPS)

    def step() -> tuple[Tensor, ...]:
        dispatch = sort_by_expert(ids, 4)._replace(probability=leaves["probability"])
        return differentiate("fused", leaves, dispatch, weights, upstream, "gelu", 0.0)

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step()
    for lean in (0, 3):
        ids.copy_(torch.where(torch.rand(300, device="cuda") < 0.8, lean, ids))
        graph.replay()
        for ours, theirs in zip(captured, step(), strict=True):
            assert torch.equal(ours, theirs)


@pytest.mark.gpu
def test_a_replayed_graph_draws_new_dropout() -> None:
    case = {key: value.cuda() for key, value in random_case(64, 2, 32, 16).items()}

    def forward() -> Tensor:
        return run("fused", case, "cuda", torch.float32, dropout=0.5)[0]

    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        forward()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = forward()
    graph.replay()
    first = captured.clone()
    graph.replay()
    assert not torch.equal(first, captured)
