"""How much faster than a dense BERT is MoEBERT, if one encoder runs both?

Classifiers of BERT-base's shape with random weights in bf16, under the runtimes that latency is measured under: `lean`
is one CUDA graph of fused kernels without padding, `eager` is transformers' forward with sdpa. Token ids are random,
Zipfian, so experts are as unevenly busy as they are on text. Rows have one length; `BxR` has rows of random lengths up
to 128, padded for transformers. The experts have a quarter of the dense network's size; the gates choose by random
weights, hash routings by a table. The reference loop is MoEBERT with its experts in a Python loop over slices.

Variants take turns, in another order in each round. Printed are medians over rounds, in milliseconds. Ratios are those
of medians. `off` is how far lean's logits are from those of transformers' forward of the same model, relative to these.

    python benchmarks/lean_encoder.py
    python benchmarks/lean_encoder.py --profile 128x128   # and microseconds by kernel

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import gc
import json
from functools import partial
from typing import Any

import torch
import transformers
from fused_ffn import VOCABULARY, kernels, taking_turns, zipfian
from transformers import BertConfig, BertForSequenceClassification

from bench.latency.runtimes import Eager, Runtime
from methods.lean import Lean
from moebert import MoEBertConfig, MoEBertForSequenceClassification
from moebert.routing import random_hash

BATCHES, LENGTHS = (1, 8, 32, 128, 512), (16, 64, 128, 384, 512)
GRID = [f"{batch}x{length}" for batch in BATCHES for length in LENGTHS]
RAGGED = ["32xR", "512xR"]
LONGEST, SHORTEST = 128, 8  # tokens of a ragged row
LOOPED = 8  # rows up to which the reference loop is timed
COMPARED = ("dense", "hash-random")
ROUTINGS = ("hash-random", "gate-token", "gate-sentence")

Models = dict[str, Any]
Variant = tuple[str, Runtime]


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    models = make_models(getattr(torch, arguments.dtype))
    rows = [measure(point, models, arguments) for point in arguments.grid]
    print(json.dumps({"benchmark": "lean_encoder", "settings": settings(arguments), "rows": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--grid", nargs="*", default=[*GRID, *RAGGED], help="such as 32x128, or 32xR")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float16", "float32"])
    parser.add_argument("--profile", nargs="*", default=[], help="points of the grid")
    return parser.parse_args()


def make_models(dtype: torch.dtype) -> Models:
    """Return a dense BERT and a MoEBERT of each routing."""
    config = BertConfig()
    models: Models = {"dense": BertForSequenceClassification(config)}
    for routing in ROUTINGS:
        shape = MoEBertConfig.from_bert(config, routing=routing)
        models[routing] = MoEBertForSequenceClassification(shape)
    models["loop"] = models["hash-random"]
    models["hash-random"].bert.router.table.copy_(
        random_hash(config.num_hidden_layers, VOCABULARY, 4, seed=0)
    )
    return {name: model.to("cuda", dtype).eval() for name, model in models.items()}


def measure(point: str, models: Models, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time all variants on one batch."""
    batch = make_batch(point)
    rows = len(batch["input_ids"])
    variants: dict[str, Variant] = {
        "eager": ("dense", Eager()),
        "lean": ("dense", Lean()),
        **{routing: (routing, Lean()) for routing in ROUTINGS},
    }
    if rows <= LOOPED:
        variants["loop"] = ("loop", Eager())
    runs = {name: prepared(models, variant, batch) for name, variant in variants.items()}
    milliseconds = taking_turns(runs, arguments.rounds)
    best = min(milliseconds[name] for name in ("eager", "lean"))
    ratios = {f"best dense / {routing}": best / milliseconds[routing] for routing in ROUTINGS}
    ratios["eager / hash-random"] = milliseconds["eager"] / milliseconds["hash-random"]
    if "loop" in milliseconds:
        ratios["loop / hash-random"] = milliseconds["loop"] / milliseconds["hash-random"]
    off = {
        name: difference(models[name], runs["lean" if name == "dense" else name], batch) for name in COMPARED
    }
    tokens = int(batch["attention_mask"].sum())
    print(
        f"{point:>8} {tokens:7} tokens:"
        + "".join(f"  {name} {value:.3f}" for name, value in milliseconds.items())
        + " ms;"
        + "".join(f"  {name} {value:.2f}" for name, value in ratios.items())
        + ";  off"
        + "".join(f" {value:.0e}" for value in off.values()),
        flush=True,
    )
    found = {"point": point, "tokens": tokens, "ms": milliseconds, "ratios": ratios, "off": off}
    if point in arguments.profile:
        found["kernels_us"] = kernels({name: runs[name] for name in ("lean", "hash-random", "gate-token")})
    del runs
    gc.collect()
    torch.cuda.empty_cache()
    return found


def difference(model: Any, run: partial[Any], batch: dict[str, torch.Tensor]) -> float:
    """Return how far a run's logits are from those of transformers' forward, relative to these."""
    found = run().logits.float()
    with torch.inference_mode():
        expected = model(**batch).logits.float()
    return float((found - expected).norm() / expected.norm())


def prepared(models: Models, variant: Variant, batch: dict[str, torch.Tensor]) -> partial[Any]:
    """Return the call that is timed; a loop over experts is what a model is set to while it runs."""
    name, runtime = variant
    model = models[name]
    run = runtime.prepare(model, [batch])

    def looped(index: int) -> object:
        model.set_experts_implementation("reference")
        answer = run(index)
        model.set_experts_implementation("auto")
        return answer

    return partial(looped if name == "loop" else run, 0)


def make_batch(point: str) -> dict[str, torch.Tensor]:
    rows, length = (int(part) if part != "R" else LONGEST for part in point.split("x"))
    lengths = torch.full((rows, 1), length)
    if point.endswith("R"):
        lengths = torch.randint(SHORTEST, LONGEST + 1, (rows, 1))
    mask = (torch.arange(length) < lengths).long().cuda()
    ids = zipfian(rows * length).view(rows, length) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": torch.zeros_like(ids)}


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "rounds": arguments.rounds,
        "dtype": arguments.dtype,
    }


if __name__ == "__main__":
    main()
