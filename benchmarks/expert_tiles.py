"""How should the experts' products be cut into tiles, and how far are they from the best products of the same size?

For each number of tokens every candidate runs forward and backward in bf16, four experts of BERT-base's shape; printed
are the microseconds of each kernel, the three best candidates first. `product_tiles` and `weight_tiles` of
moebert/experts/triton_experts.py are the outcome. Beside them stand what bounds them: torch's plain product of all
tokens with one expert's matrix, its grouped product, its LayerNorm; and the sort by expert of all layers, torch's and
ours.

    python benchmarks/expert_tiles.py

The first run compiles a few minutes. The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812
from torch.profiler import ProfilerActivity, profile

from moebert.experts import Dispatch, ExpertWeights, sort_by_expert, triton_experts
from moebert.experts.triton_experts import Tiles
from moebert.experts.triton_sort import counting_sort

HIDDEN, EXPERTS, LAYERS, EPS = 768, 4, 12, 1e-12
CANDIDATES = [
    Tiles(16, 32, 128, 4, 4),
    Tiles(16, 64, 128, 4, 4),
    Tiles(16, 128, 64, 4, 4),
    Tiles(32, 64, 128, 4, 3),
    Tiles(64, 64, 32, 4, 5),
    Tiles(64, 64, 64, 4, 4),
    Tiles(64, 64, 128, 4, 3),
    Tiles(64, 128, 64, 4, 3),
    Tiles(64, 128, 64, 4, 4),
    Tiles(128, 64, 64, 4, 3),
    Tiles(128, 128, 32, 4, 5),
    Tiles(128, 128, 64, 8, 3),
    Tiles(128, 256, 64, 8, 3),
    Tiles(128, 256, 64, 8, 4),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=[128, 512, 2048, 16384])
    rows = [sweep(tokens) for tokens in parser.parse_args().tokens]
    settings = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "expert_tiles", "settings": settings, "rows": rows}))


def sweep(tokens: int) -> dict[str, Any]:
    """Time every candidate, and what bounds it."""
    torch.manual_seed(0)
    shapes = ((HIDDEN, HIDDEN), (HIDDEN,)) * 2 + ((HIDDEN,),) * 2
    weights = ExpertWeights(*(normal(EXPERTS, *shape).requires_grad_() for shape in shapes), norm_eps=EPS)
    x, upstream = normal(tokens, HIDDEN).requires_grad_(), normal(tokens, HIDDEN)
    dispatch = sort_by_expert(torch.randint(EXPERTS, (tokens,), device="cuda"), EXPERTS)

    found: dict[str, dict[str, float]] = {}
    for candidate in CANDIDATES:
        triton_experts.product_tiles = triton_experts.weight_tiles = lambda *_, tiles=candidate: tiles
        for kernel, microseconds in kernels(lambda: both(x, dispatch, weights, upstream)).items():
            if kernel.endswith("_kernel"):
                found.setdefault(kernel, {})[str(candidate)] = microseconds
    for kernel, times in found.items():
        best = sorted(times.items(), key=lambda item: item[1])[:3]
        print(f"{tokens:6} tokens  {kernel:27}" + "  ".join(f"{time:6.1f} us {name}" for name, time in best))
    bounds = references(x.detach(), dispatch, weights)
    for name, microseconds in bounds.items():
        print(f"{tokens:6} tokens  {name:27}{microseconds:6.1f} us", flush=True)
    return {"tokens": tokens, "kernels_us": found, "bounds_us": bounds}


def normal(*shape: int) -> torch.Tensor:
    return (torch.randn(shape, device="cuda") / HIDDEN**0.5).bfloat16()


def both(x: torch.Tensor, dispatch: Dispatch, weights: ExpertWeights, upstream: torch.Tensor) -> None:
    outputs = triton_experts.triton_experts(x, dispatch, weights, "gelu", 0.0)
    torch.autograd.grad(outputs, [x, *weights[:-1]], upstream)


def references(x: torch.Tensor, dispatch: Dispatch, weights: ExpertWeights) -> dict[str, float]:
    """Return the microseconds of torch's own operations."""
    up, ids = weights.up.detach(), torch.randint(EXPERTS, (LAYERS, len(x)), device="cuda")
    steps = {
        "plain product": lambda: x @ up[0],
        "grouped product": lambda: F.grouped_mm(x, up, offs=dispatch.ends),
        "LayerNorm": lambda: F.layer_norm(x, (HIDDEN,)),
        "torch's sort, all layers": lambda: ids.sort(dim=-1, stable=True),
        "counting sort, all layers": lambda: counting_sort(ids, EXPERTS),
    }
    return {name: sum(kernels(step).values()) for name, step in steps.items()}


def kernels(step: Callable[[], Any], times: int = 10) -> dict[str, float]:
    """Return the mean microseconds of a step by kernel."""
    for _ in range(3):
        step()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(times):
            step()
        torch.cuda.synchronize()
    events = profiler.key_averages()
    return {event.key: event.device_time_total / times for event in events if event.device_time_total}


if __name__ == "__main__":
    main()
