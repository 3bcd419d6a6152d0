"""How much faster is MoEBERT than the dense BERT it was cut from, on one CPU thread?

Both models encode the same token ids without padding. They take turns, dense first in one round and second in the
next, so that whatever slows the machine down slows both. A round's ratio is dense time over MoEBERT time; printed
is the ratio of the medians over all rounds, with the quartiles of the rounds' ratios. Beside it stand the multiply-
add bound, the ratio that a machine would show whose time is all multiply-adds, and the ratio to reach.

    python benchmarks/moebert_cpu.py                                 # random weights of the same shape, Zipfian ids
    python benchmarks/moebert_cpu.py --checkpoint FOLDER --text FILE # real weights, a text a line
    python benchmarks/moebert_cpu.py --profile                       # where the time goes, by kind of operation

Times do not hang on the values of weights, but the share of tokens that each expert gets hangs on the ids. The last
line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, BertConfig, BertModel

from moebert import MoEBertConfig, adapt
from moebert.cost import multiply_adds
from moebert.experts import IMPLEMENTATIONS

SHAPE = {"hidden_size": 384, "num_hidden_layers": 6, "num_attention_heads": 12, "intermediate_size": 1536}
TO_REACH = {(1, 16): 1.05, (1, 128): 1.4, (8, 32): 1.55, (32, 32): 1.9, (32, 128): 1.85}
KINDS = {
    "products": ("aten::addmm", "aten::mm", "aten::bmm", "aten::linear"),
    "attention": ("aten::_scaled_dot_product_flash_attention_for_cpu",),
    "activation": ("aten::gelu", "aten::tanh"),
    "LayerNorm": ("aten::native_layer_norm",),
    "moving": (
        "aten::copy_",
        "aten::index_select",
        "aten::index_copy_",
        "aten::cat",
        "aten::sort",
        "aten::searchsorted",
        "aten::index",
        "aten::embedding",
        "aten::add",
        "aten::add_",
    ),
}


def main() -> None:
    arguments = parse()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    dense = load(arguments.checkpoint)
    config = MoEBertConfig.from_bert(dense.config, num_experts=arguments.experts, routing=arguments.routing)
    moebert = adapt(dense, config, strategy="random", token_frequency=torch.ones(config.vocab_size)).eval()
    moebert.set_experts_implementation(arguments.implementation)
    ids = token_ids(arguments, dense.config.vocab_size)
    rows = []
    with torch.inference_mode():
        for batch, length in arguments.shapes or TO_REACH:
            rows.append(measure(dense, moebert, ids, batch, length, arguments.seconds))
            show(rows[-1])
            if arguments.profile:
                rows[-1]["milliseconds_by_kind"] = where_time_goes(dense, moebert, ids, batch, length)
    print(json.dumps({"benchmark": "moebert_cpu", "settings": settings(arguments), "rows": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--checkpoint", type=Path, help="folder of a BERT; default: random weights of the shape"
    )
    parser.add_argument("--text", type=Path, help="file with a text a line, for the checkpoint's tokenizer")
    parser.add_argument("--experts", type=int, default=4)
    parser.add_argument("--routing", default="hash-random")
    parser.add_argument("--implementation", default="grouped", choices=sorted(IMPLEMENTATIONS))
    parser.add_argument("--shapes", nargs="+", type=shape, help="batch x length, such as 32x128")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each shape")
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def shape(text: str) -> tuple[int, int]:
    batch, length = text.split("x")
    return int(batch), int(length)


def load(checkpoint: Path | None) -> BertModel:
    model = BertModel(BertConfig(**SHAPE)) if checkpoint is None else BertModel.from_pretrained(checkpoint)
    return model.eval()


def token_ids(arguments: argparse.Namespace, vocab_size: int) -> Tensor:
    """Return a long stream of token ids: of real text, or with the frequencies of real text."""
    if arguments.text is None:
        return torch.multinomial(1 / torch.arange(1.0, vocab_size + 1), 200_000, replacement=True)
    tokenizer = AutoTokenizer.from_pretrained(arguments.checkpoint)
    encoded = tokenizer(arguments.text.read_text(encoding="utf-8").splitlines())["input_ids"]
    return torch.tensor([token for row in encoded for token in row])


def measure(dense: Any, moebert: Any, ids: Tensor, batch: int, length: int, seconds: float) -> dict[str, Any]:
    """Let the models take turns for about so many seconds."""
    times: dict[str, list[float]] = {"dense": [], "moebert": []}
    pairs = [("dense", dense), ("moebert", moebert)]
    end, round_number = time.perf_counter() + seconds, -2
    while time.perf_counter() < end or len(times["dense"]) < 7:
        batch_ids = excerpt(ids, round_number + 2, batch, length)
        for name, model in pairs if round_number % 2 == 0 else reversed(pairs):
            start = time.perf_counter()
            model(input_ids=batch_ids)
            if round_number >= 0:  # the first two are warm-ups
                times[name].append(time.perf_counter() - start)
        round_number += 1
    medians = {name: statistics.median(values) for name, values in times.items()}
    ratios = [first / second for first, second in zip(times["dense"], times["moebert"], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    bound = multiply_adds(dense.config, length, head="none") / multiply_adds(
        moebert.config, length, head="none"
    )
    return {
        "batch": batch,
        "length": length,
        "rounds": len(ratios),
        "dense_ms": 1e3 * medians["dense"],
        "moebert_ms": 1e3 * medians["moebert"],
        "ratio": medians["dense"] / medians["moebert"],
        "ratio_quartiles": [low, high],
        "multiply_add_bound": bound,
        "to_reach": TO_REACH.get((batch, length)),
    }


def excerpt(ids: Tensor, number: int, batch: int, length: int) -> Tensor:
    start = number * batch * length % (len(ids) - batch * length)
    return ids[start : start + batch * length].view(batch, length)


def where_time_goes(
    dense: Any, moebert: Any, ids: Tensor, batch: int, length: int
) -> dict[str, dict[str, float]]:
    """Return, and print, the milliseconds of a forward pass by kind of operation."""
    passes, found = max(3, 4096 // (batch * length)), {}
    for name, model in (("dense", dense), ("moebert", moebert)):
        with profile(activities=[ProfilerActivity.CPU]) as profiler:
            for number in range(passes):
                model(input_ids=excerpt(ids, number, batch, length))
        own = {event.key: event.self_cpu_time_total / 1e3 / passes for event in profiler.key_averages()}
        by_kind = {kind: sum(own.get(key, 0.0) for key in keys) for kind, keys in KINDS.items()}
        found[name] = by_kind | {"the rest": sum(own.values()) - sum(by_kind.values())}
        print(f"    {name:8}" + "".join(f"  {kind} {value:.2f} ms" for kind, value in found[name].items()))
    return found


def show(row: dict[str, Any]) -> None:
    low, high = row["ratio_quartiles"]
    target = "" if row["to_reach"] is None else f", to reach {row['to_reach']:.2f}"
    print(
        f"{row['batch']:3} x {row['length']:3}: dense {row['dense_ms']:8.2f} ms, MoEBERT {row['moebert_ms']:8.2f} ms, "
        f"{row['ratio']:.3f} times faster (quartiles {low:.3f} to {high:.3f}, {row['rounds']} rounds), "
        f"bound {row['multiply_add_bound']:.2f}{target}",
        flush=True,
    )


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "weights": "random" if arguments.checkpoint is None else str(arguments.checkpoint.name),
        "ids": "zipf" if arguments.text is None else str(arguments.text.name),
        "experts": arguments.experts,
        "routing": arguments.routing,
        "implementation": arguments.implementation,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "load_average": os.getloadavg()[0],
    }


if __name__ == "__main__":
    main()
