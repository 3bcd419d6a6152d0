"""What does it gain that rows lie sorted by expert, and how should products of sorted rows be cut?

A chain of twelve feed-forward networks of BERT-base's shape, four experts in bf16, random hash routing, Zipfian ids;
residual and LayerNorm included. "gathered" are the kernels of moebert/experts, which fetch each row from its place,
with the cut that they choose; the others are those of moebert/lean, given sorted rows, with each candidate.
`product_tiles` of moebert/lean/sorted_experts.py is the outcome. Each is one CUDA graph; they take turns. Printed are
medians over rounds, microseconds of a layer.

    python benchmarks/sorted_tiles.py

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from fused_ffn import VOCABULARY, captured, initialised, taking_turns, zipfian
from torch import Tensor
from transformers import BertConfig

from moebert import MoEBertConfig
from moebert.experts import Dispatch, sort_by_expert
from moebert.experts.triton_experts import Tiles, triton_experts
from moebert.layers import MoEBertExperts
from moebert.lean import sorted_experts
from moebert.routing import random_hash

LAYERS, EXPERTS = 12, 4
TOKENS = [16, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 65536]
CANDIDATES = [
    Tiles(16, 64, 128, 4, 4),
    Tiles(64, 32, 128, 4, 4),
    Tiles(64, 64, 64, 4, 4),
    Tiles(64, 64, 128, 4, 3),
    Tiles(64, 128, 64, 4, 4),
    Tiles(128, 128, 64, 4, 3),
    Tiles(128, 128, 64, 8, 3),
    Tiles(128, 256, 64, 8, 3),
]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    torch.manual_seed(0)
    config = MoEBertConfig.from_bert(BertConfig(), num_experts=EXPERTS)
    layers = [initialised(MoEBertExperts(config)).to("cuda", torch.bfloat16).eval() for _ in range(LAYERS)]
    rows = [sweep(tokens, layers, arguments.rounds) for tokens in arguments.tokens]
    settings = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "sorted_tiles", "settings": settings, "rows": rows}))


def sweep(tokens: int, layers: list[MoEBertExperts], rounds: int) -> dict[str, Any]:
    """Time every candidate beside the gathering kernels."""
    table = random_hash(LAYERS, VOCABULARY, EXPERTS, seed=0).cuda()
    dispatch = sort_by_expert(table[:, zipfian(tokens)], EXPERTS)
    x = torch.randn(tokens, BertConfig().hidden_size, device="cuda", dtype=torch.bfloat16)

    def gathered(y: Tensor, own: Dispatch, layer: MoEBertExperts) -> Tensor:
        return triton_experts(y, own, layer.weights, "gelu", 0.0)

    def of_sorted(y: Tensor, own: Dispatch, layer: MoEBertExperts) -> Tensor:
        return sorted_experts.sorted_experts(y, own, layer.weights)

    def chain(run: Callable[[Tensor, Dispatch, MoEBertExperts], Tensor]) -> Callable[[], Any]:
        @torch.inference_mode()
        def step() -> Tensor:
            y = x
            for index, layer in enumerate(layers):
                y = run(y, dispatch.layer(index), layer)
            return y

        return captured(step)

    steps = {"gathered": chain(gathered)}
    for candidate in CANDIDATES:
        sorted_experts.product_tiles = lambda *_, tiles=candidate: tiles
        cut = candidate
        name = f"{cut.rows}x{cut.columns}x{cut.depth} w{cut.num_warps} s{cut.num_stages}"
        steps[name] = chain(of_sorted)
    times = {name: 1000 * value / LAYERS for name, value in taking_turns(steps, rounds).items()}
    print(f"{tokens:6} tokens" + "".join(f"  {name} {time:.1f}" for name, time in times.items()), flush=True)
    return {"tokens": tokens, "us": times}


if __name__ == "__main__":
    main()
