"""Products by blocks against plain torch in double precision; on a CPU by Triton's interpreter."""

from __future__ import annotations

import pytest
import torch
from kernel_devices import DEVICES
from torch.nn import functional as F  # noqa: N812

EPSILON = {torch.bfloat16: 2**-9, torch.float16: 2**-12}  # half of what rounding may move a number by


@DEVICES
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("gelu", [True, False])
@pytest.mark.parametrize(
    ("rows", "depth", "width"), [(1, 8, 8), (300, 72, 200), (130, 136, 64), (5000, 128, 328)]
)
def test_one_matrix_for_all_rows(
    device: str,
    dtype: torch.dtype,
    gelu: bool,
    rows: int,
    depth: int,
    width: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if device == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("there is no tensor memory accelerator before Hopper")
    if device == "cpu" and (rows > 2000 or dtype == torch.bfloat16):
        pytest.skip("the interpreter is slow, and reads no bf16 by descriptors")
    from moebert.lean import products

    monkeypatch.setattr(products, "_programs", lambda device: 3)  # so that each has several tiles
    torch.manual_seed(0)
    x, weight, bias = torch.randn(rows, depth), torch.randn(width, depth) / depth**0.5, torch.randn(width)
    x, weight, bias = (tensor.to(device, dtype) for tensor in (x, weight, bias))
    expected = F.linear(x.double(), weight.double(), bias.double())
    expected = F.gelu(expected) if gelu else expected
    found = products.product(x, weight, bias, gelu=gelu)
    assert found.dtype == dtype
    assert (found.double() - expected).norm() <= 1.5 * EPSILON[dtype] * expected.norm()


@DEVICES
@pytest.mark.parametrize(("dtype", "off"), [(torch.bfloat16, 2**-12), (torch.float16, 0.0)])
def test_gelu_of_every_number(device: str, dtype: torch.dtype, off: float) -> None:
    """``off`` is what the hardware's tanh may be wrong by, as a part of the number."""
    if device == "cuda" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("there is no tensor memory accelerator before Hopper")
    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter reads no bf16 by descriptors")
    from moebert.lean.products import product

    numbers = torch.arange(-(2**15), 2**15).to(torch.int16).view(dtype)
    numbers = numbers[numbers.double().abs() < 1e4].to(device)
    assert len(numbers) == (35898 if dtype == torch.bfloat16 else 57796)
    numbers = numbers if device == "cuda" else numbers[::11]  # the interpreter is slow
    x, weight = torch.zeros(len(numbers), 8).to(numbers), torch.zeros(8, 8).to(numbers)
    x[:, 0], weight[:, 0] = numbers, 1
    found = product(x, weight, torch.zeros(8).to(numbers), gelu=True)[:, 3].double()
    expected = F.gelu(numbers.double())
    allowed = 2 * EPSILON[dtype] * expected.abs() + off * numbers.double().abs() + (3e-5 if off else 2e-6)
    assert ((found - expected).abs() <= allowed).all()


@DEVICES
@pytest.mark.parametrize(
    ("tokens", "experts", "visited"), [(1, 3, 3), (300, 4, 4), (3000, 64, 5), (3000, 2, 2)]
)
def test_tiles_cover_each_experts_rows_once(device: str, tokens: int, experts: int, visited: int) -> None:
    from moebert.experts import sort_by_expert
    from moebert.lean.products import list_tiles, product_tiles

    torch.manual_seed(0)
    ids = torch.randperm(experts)[torch.randint(visited, (2, tokens))].to(device)
    ends = sort_by_expert(ids, experts).ends
    listed, rows = list_tiles(ends, tokens), product_tiles(tokens, experts).rows
    for index in range(2):
        wanted, start = [], 0
        for expert, end in enumerate(ends[index].tolist()):
            wanted += [[expert, first, end] for first in range(start, end, rows)]
            start = end
        tiles, count, _cut = listed.layer(index)
        assert tiles[: int(count)].tolist() == wanted
