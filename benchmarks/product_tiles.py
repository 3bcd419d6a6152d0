"""How should the products of many rows be cut, and what do they gain over what is used elsewhere?

Experts: a chain of twelve feed-forward networks of BERT-base's shape, four experts in bf16, random hash routing,
Zipfian ids; residual and LayerNorm included. "gathered" are the kernels of moebert/experts, which fetch each row from
its place, with the cut that they choose; the others are those of moebert/lean, given sorted rows, with each candidate.

Dense: the first product of a feed-forward network with bias and GELU. "apart" is torch's product (cuBLAS), then one
kernel for the rest; the others are both in one kernel, with each candidate.

`product_tiles` of moebert/lean/products.py and WORTH_FUSING of moebert/lean/fused.py are the outcome. Each is one CUDA
graph; they take turns. Printed are medians over rounds, microseconds of a layer.

    python benchmarks/product_tiles.py

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from typing import Any

import torch
from fused_ffn import SHAPES, VOCABULARY, captured, initialised, taking_turns, zipfian
from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from transformers import BertConfig

from moebert import MoEBertConfig
from moebert.experts import sort_by_expert
from moebert.experts.triton_experts import Tiles, triton_experts
from moebert.layers import MoEBertExperts
from moebert.lean import products
from moebert.lean.fused import bias_gelu
from moebert.lean.sorted_experts import sorted_experts
from moebert.routing import random_hash

LAYERS, EXPERTS = 12, 4
TOKENS = [256, 512, 1024, 2048, 4096, 8192, 16384, 65536]
CANDIDATES = [
    Tiles(64, 64, 128, 4, 3),
    Tiles(64, 128, 64, 4, 4),
    Tiles(128, 128, 64, 4, 3),
    Tiles(128, 128, 64, 8, 3),
]
DENSE_CANDIDATES = CANDIDATES[2:]


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
    rows = []
    for tokens in arguments.tokens:
        rows.append(show("experts", tokens, experts(tokens, layers), arguments.rounds))
        for name, shape in SHAPES.items():
            rows.append(show(f"dense, {name}", tokens, dense(tokens, shape), arguments.rounds))
    settings = {"device": torch.cuda.get_device_name(), "torch": torch.__version__}
    print(json.dumps({"benchmark": "product_tiles", "settings": settings, "rows": rows}))


def experts(tokens: int, layers: list[MoEBertExperts]) -> dict[str, Callable[[], Any]]:
    """Return a chain of networks by the gathering kernels, and by each candidate."""
    table = random_hash(LAYERS, VOCABULARY, EXPERTS, seed=0).cuda()
    dispatch = sort_by_expert(table[:, zipfian(tokens)], EXPERTS)
    x = torch.randn(tokens, BertConfig().hidden_size, device="cuda", dtype=torch.bfloat16)

    @torch.inference_mode()
    def gathered() -> Tensor:
        y = x
        for index, layer in enumerate(layers):
            y = triton_experts(y, dispatch.layer(index), layer.weights, "gelu", 0.0)
        return y

    @torch.inference_mode()
    def of_sorted() -> Tensor:
        y, tiles = x, products.list_tiles(dispatch.ends, tokens)
        for index, layer in enumerate(layers):
            y = sorted_experts(y, dispatch.layer(index), tiles.layer(index), layer.weights)
        return y

    return {"gathered": captured(gathered), **with_each(CANDIDATES, of_sorted)}


def dense(tokens: int, config: BertConfig) -> dict[str, Callable[[], Any]]:
    """Return a first product and its GELU apart, and as one kernel by each candidate."""
    hidden, size = config.hidden_size, config.intermediate_size
    x = torch.randn(tokens, hidden, device="cuda", dtype=torch.bfloat16)
    weights = [torch.randn(size, hidden, device="cuda", dtype=torch.bfloat16) / 32 for _ in range(LAYERS)]
    bias = torch.randn(size, device="cuda", dtype=torch.bfloat16)

    @torch.inference_mode()
    def apart() -> None:
        for weight in weights:
            bias_gelu(F.linear(x, weight), bias)

    @torch.inference_mode()
    def in_one() -> None:
        for weight in weights:
            products.product(x, weight, bias, gelu=True)

    return {"apart": captured(apart), **with_each(DENSE_CANDIDATES, in_one)}


def with_each(candidates: list[Tiles], step: Callable[[], Any]) -> dict[str, Callable[[], Any]]:
    """Return a step captured with each cut."""
    steps = {}
    for cut in candidates:
        products.product_tiles = lambda *_, cut=cut, **__: cut
        name = f"{cut.rows}x{cut.columns}x{cut.depth} w{cut.num_warps} s{cut.num_stages}"
        steps[name] = captured(step)
    return steps


def show(what: str, tokens: int, steps: dict[str, Callable[[], Any]], rounds: int) -> dict[str, Any]:
    """Time steps in turns."""
    times = {name: 1000 * value / LAYERS for name, value in taking_turns(steps, rounds).items()}
    print(
        f"{tokens:6} tokens, {what}:" + "".join(f"  {name} {time:.1f}" for name, time in times.items()),
        flush=True,
    )
    return {"what": what, "tokens": tokens, "us": times}


if __name__ == "__main__":
    main()
