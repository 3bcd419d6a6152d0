"""What do fused experts gain over a dense feed-forward network, alone and in a whole model, on a GPU?

Feed-forward: six layers in a row, each with residual and LayerNorm, so that weights come from memory and inputs from
the layer before; printed is the time of one. Inference is in bf16; training is forward and backward under autocast to
bf16 from float32 weights with dropout 0.1. Dense are the modules of transformers' BERT. Tokens are Zipfian, routed by a
random hash, so experts are as unevenly busy as they are on text; experts have a quarter of the dense network's size.

Models: BERT-base's shape in bf16 without padding, hash routing with its look-up and sort included.

Variants take turns, in another order in each round; a captured one is one CUDA graph. Printed are medians over rounds;
TFLOP/s count two operations for each multiply-add that the variant has to do.

    python benchmarks/fused_ffn.py
    python benchmarks/fused_ffn.py --tokens 16384 --profile   # milliseconds by kernel

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterable
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.autograd import DeviceType
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile
from transformers import BertConfig, BertModel
from transformers.models.bert.modeling_bert import BertIntermediate, BertOutput

from moebert import MoEBertConfig, MoEBertModel
from moebert.experts import Dispatch, sort_by_expert
from moebert.layers import MoEBertExperts
from moebert.routing import random_hash

LAYERS, EXPERTS, VOCABULARY = 6, 4, 30522
SHAPES = {
    "BERT-base": BertConfig(),
    "MiniLM": BertConfig(hidden_size=384, num_attention_heads=12, intermediate_size=1536),
}
TOKENS = [128, 512, 2048, 8192, 16384, 65536]
GRID = [(1, 128), (8, 128), (32, 128), (128, 128), (512, 128), (32, 512)]

Step = Callable[[], Any]


class DenseFeedForward(nn.Module):
    """BERT's feed-forward network with residual and LayerNorm."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.intermediate, self.output = BertIntermediate(config), BertOutput(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Run ``[tokens, hidden]``."""
        output: Tensor = self.output(self.intermediate(tokens), tokens)
        return output


def main() -> None:
    arguments = parse()
    torch.manual_seed(0)
    rows = []
    for name in arguments.shapes:
        for tokens in arguments.tokens:
            rows += [feed_forward(name, tokens, training, arguments) for training in (False, True)]
    rows += [model(batch, length, arguments) for batch, length in arguments.grid]
    print(json.dumps({"benchmark": "fused_ffn", "settings": settings(arguments), "rows": rows}))


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shapes", nargs="*", default=list(SHAPES), choices=list(SHAPES))
    parser.add_argument("--tokens", nargs="+", type=int, default=TOKENS)
    parser.add_argument("--grid", nargs="*", type=batch_and_length, default=GRID, help="such as 32x128")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--profile", action="store_true")
    return parser.parse_args()


def batch_and_length(text: str) -> tuple[int, int]:
    batch, length = text.split("x")
    return int(batch), int(length)


def feed_forward(name: str, tokens: int, training: bool, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time one layer of each variant."""
    config = SHAPES[name]
    moebert = MoEBertConfig.from_bert(config, num_experts=EXPERTS)
    dtype = torch.float32 if training else torch.bfloat16
    dense = [DenseFeedForward(config) for _ in range(LAYERS)]
    experts = [initialised(MoEBertExperts(moebert)) for _ in range(LAYERS)]
    for layer in (*dense, *experts):
        layer.to("cuda", dtype).train(training)
    x = torch.randn(tokens, config.hidden_size, device="cuda", dtype=dtype, requires_grad=training)
    table = random_hash(LAYERS, VOCABULARY, EXPERTS, seed=0).cuda()
    dispatch = sort_by_expert(table[:, zipfian(tokens)], EXPERTS)

    def run_dense() -> Any:
        return through(x, dense, [()] * LAYERS, training)

    def run_experts(implementation: str) -> Step:
        def run() -> Any:
            moebert._experts_implementation = implementation
            return through(x, experts, [(dispatch.layer(index),) for index in range(LAYERS)], training)

        return run

    steps = {
        "dense eager": run_dense,
        "dense": captured(run_dense),
        "grouped": captured(run_experts("grouped")),
        "fused": captured(run_experts("fused")),
    }
    milliseconds = {key: value / LAYERS for key, value in taking_turns(steps, arguments.rounds).items()}
    passes = 3 if training else 1
    work = 4 * tokens * config.hidden_size * passes
    teraflops = {
        key: work * (config.intermediate_size if "dense" in key else moebert.expert_size) / value / 1e9
        for key, value in milliseconds.items()
    }
    row = {"shape": name, "tokens": tokens, "training": training, "ms": milliseconds, "TFLOP/s": teraflops}
    label = f"{name:9} {tokens:6} tokens {'training ' if training else 'inference'}"
    show(label, milliseconds, teraflops)
    if arguments.profile:
        row["kernels_us"] = kernels({"dense": run_dense, "fused": run_experts("fused")})
    return row


def through(x: Tensor, layers: list[Any], extras: list[tuple[Dispatch, ...]], training: bool) -> Any:
    """Run the layers one after another; in training return all gradients."""
    if not training:
        with torch.no_grad():
            for layer, extra in zip(layers, extras, strict=True):
                x = layer(x, *extra)
            return x
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    with torch.autocast("cuda", torch.bfloat16):
        y = x
        for layer, extra in zip(layers, extras, strict=True):
            y = layer(y, *extra)
    return torch.autograd.grad(y, [x, *parameters], torch.ones_like(y))


def model(batch: int, length: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time a forward pass of whole models."""
    config = SHAPES["BERT-base"]
    dense = BertModel(config, add_pooling_layer=False)
    moebert = MoEBertModel(MoEBertConfig.from_bert(config, num_experts=EXPERTS), add_pooling_layer=False)
    for encoder in (dense, moebert):
        encoder.to("cuda", torch.bfloat16).eval()
    ids = zipfian(batch * length).view(batch, length)

    def run_dense() -> Any:
        with torch.no_grad():
            return dense(input_ids=ids).last_hidden_state

    def run_moebert(implementation: str) -> Step:
        def run() -> Any:
            moebert.set_experts_implementation(implementation)
            with torch.no_grad():
                return moebert(input_ids=ids).last_hidden_state

        return run

    steps = {"dense eager": run_dense, "dense": captured(run_dense)}
    for name in ("grouped", "fused"):
        steps |= {f"{name} eager": run_moebert(name), name: captured(run_moebert(name))}
    milliseconds = taking_turns(steps, arguments.rounds)
    best = min(milliseconds["dense eager"], milliseconds["dense"])
    ratio = best / min(milliseconds["fused"], milliseconds["fused eager"])
    show(f"model {batch:3} x {length:3}", milliseconds, {})
    print(f"    best MoEBERT {ratio:.2f} times faster than the best of transformers' dense model", flush=True)
    row = {"batch": batch, "length": length, "ms": milliseconds, "best_dense_over_best_fused": ratio}
    if arguments.profile:
        row["kernels_us"] = kernels({"dense": run_dense, "fused": run_moebert("fused")})
    return row


def zipfian(tokens: int) -> Tensor:
    """Return token ids with about the frequencies of text."""
    frequencies = 1 / torch.arange(1.0, VOCABULARY + 1)
    return torch.multinomial(frequencies, tokens, replacement=True).cuda()


def initialised(experts: MoEBertExperts) -> MoEBertExperts:
    with torch.no_grad():
        for parameter in experts.parameters():
            parameter.normal_(std=0.02)
        experts.layernorm_weight += 1
    return experts


def captured(step: Step) -> Step:
    """Return a step as one CUDA graph."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(2):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        outputs = step()

    def replay(_kept: Any = outputs) -> None:
        graph.replay()

    return replay


def taking_turns(steps: dict[str, Step], rounds: int) -> dict[str, float]:
    """Return the median milliseconds of each step."""
    times: dict[str, list[float]] = {name: [] for name in steps}
    names = list(steps)
    for number in range(rounds + 2):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            start.record()
            steps[name]()
            end.record()
            torch.cuda.synchronize()
            if number >= 2:  # the first two are warm-ups
                times[name].append(start.elapsed_time(end))
    return {name: statistics.median(values) for name, values in times.items()}


def kernels(steps: dict[str, Step]) -> dict[str, dict[str, float]]:
    """Return, and print, microseconds by kernel, and those of a step, up to the next, in which none runs."""
    found = {}
    for name, step in steps.items():
        step()
        with profile(activities=[ProfilerActivity.CUDA]) as profiler:
            for _ in range(5):
                step()
            torch.cuda.synchronize()
        events = sorted(profiler.key_averages(), key=lambda event: -event.device_time_total)
        found[name] = {event.key[:80]: event.device_time_total / 5 for event in events[:12]}
        found[name]["(between kernels)"] = idle(profiler.events()) / 5
        for kernel, microseconds in found[name].items():
            print(f"    {name:6} {microseconds:9.1f} us  {kernel}")
    return found


def idle(events: Iterable[FunctionEvent]) -> float:
    """Return the microseconds from the first kernel's beginning to the last one's end in which none runs."""
    kernels = [event.time_range for event in events if event.device_type == DeviceType.CUDA]
    spans = sorted((kernel.start, kernel.end) for kernel in kernels)
    waited, latest = 0.0, spans[0][0]
    for start, end in spans:
        waited += max(0.0, start - latest)
        latest = max(latest, end)
    return waited


def show(label: str, milliseconds: dict[str, float], teraflops: dict[str, float]) -> None:
    rates = {key: f" ({teraflops[key]:.0f} TFLOP/s)" if key in teraflops else "" for key in milliseconds}
    print(
        f"{label}:" + ",".join(f"  {key} {value:.4f} ms{rates[key]}" for key, value in milliseconds.items()),
        flush=True,
    )


def settings(arguments: argparse.Namespace) -> dict[str, Any]:
    return {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "layers": LAYERS,
        "experts": EXPERTS,
        "rounds": arguments.rounds,
    }


if __name__ == "__main__":
    main()
