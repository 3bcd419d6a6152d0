"""Experts of sorted rows against the dumb loop in double precision; on a CPU by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from kernel_devices import DEVICES
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from moebert.experts import ExpertWeights, find_implementation, sort_by_expert
from moebert.lean.fused import add_norm_sorted
from moebert.lean.parameters import Norm

PRECISIONS = pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])


@DEVICES
@PRECISIONS
@pytest.mark.parametrize(
    ("tokens", "experts", "visited", "hidden", "size"),
    [
        (300, 4, 4, 72, 40),
        (1, 3, 1, 64, 128),
        (70, 5, 2, 8, 136),
        (2100, 2, 2, 64, 72),
        (2000, 4, 4, 136, 328),
        (7000, 4, 4, 128, 192),
    ],
)
def test_sorted_rows_give_what_the_loop_gives(
    device: str,
    dtype: torch.dtype,
    tokens: int,
    experts: int,
    visited: int,
    hidden: int,
    size: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("there is no tensor memory accelerator before Hopper")
    if device == "cpu" and (tokens > 1000 or dtype == torch.bfloat16):
        pytest.skip("the interpreter is slow, and reads no bf16 by descriptors")
    from moebert.lean import products
    from moebert.lean.sorted_experts import sorted_experts

    monkeypatch.setattr(products, "_programs", lambda device: 3)  # so that each has several tiles

    torch.manual_seed(0)
    shapes = [(experts, hidden, size), (experts, size), (experts, size, hidden), *[(experts, hidden)] * 3]
    drawn = [torch.randn(shape) / shape[1] ** 0.5 for shape in shapes]
    drawn[4] += 1
    weights = ExpertWeights(*(tensor.to(device, dtype) for tensor in drawn), norm_eps=1e-5)
    exact = ExpertWeights(*(tensor.double() for tensor in weights[:-1]), norm_eps=1e-5)
    x = torch.randn(tokens, hidden).to(device, dtype)
    ids = torch.randperm(experts)[torch.randint(visited, (tokens,))].to(device)
    dispatch = sort_by_expert(ids, experts)
    expected = find_implementation("reference")(x.double(), dispatch, exact, F.gelu, 0.0)
    tiles = products.list_tiles(dispatch.ends[None], tokens).layer(0)
    found = sorted_experts(x[dispatch.order], dispatch, tiles, weights)
    assert found.dtype == dtype
    assert (found.double() - expected).norm() <= 1e-2 * expected.norm()


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_rows_in_another_order_are_the_same_rows(device: str) -> None:
    torch.manual_seed(0)
    x, residual = torch.randn(2, 5000, 48, device=device)
    bias, weight, shift = torch.randn(3, 48, device=device)
    order = torch.randperm(5000, device=device)

    def dumb(x: Tensor) -> Tensor:
        return F.layer_norm((x + bias + residual).double(), (48,), weight.double(), shift.double(), 1e-5)

    found = add_norm_sorted(x, bias, residual, Norm(weight, shift, 1e-5), order)
    torch.testing.assert_close(found.double(), dumb(x)[order], rtol=1e-5, atol=1e-5)
