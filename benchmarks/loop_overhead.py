"""How much of the training loop's time is spent outside forward, backward and optimiser.

Everything that a researcher pays for is in those three; batching, bookkeeping, the curve and the checks are ours, and
should cost next to nothing. The loop runs as in a real cell (half of the embedded teacher's layers, trained on labels)
with the three parts timed inside it; the rest of the wall time is overhead.

    python benchmarks/loop_overhead.py [--steps 40] [--length 32]

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import time
from contextlib import contextmanager

import numpy as np
import torch
from transformers import BertConfig, BertForSequenceClassification

from bench.cell import LabelLoss
from bench.encoded import Encoded
from bench.method import Stage
from bench.steps import EagerStep
from bench.training import Settings, train
from results.record import Budget


class Stopwatch:
    """Add up the time of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def part(self, name: str):
        """Time a block."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def around(self, name: str, function):
        """Wrap a function so that its calls are timed."""

        def timed(*args, **kwargs):
            with self.part(name):
                return function(*args, **kwargs)

        return timed


def rows(count: int, length: int) -> Encoded:
    """Make rows of random lengths up to ``length``."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(length // 4, length + 1, count).astype(np.int32)
    arrays = {
        "lengths": lengths,
        "rows": np.arange(count, dtype=np.int32),
        "ids": np.arange(count).astype(str),
        "input_ids": chance.integers(1000, 30000, lengths.sum()).astype(np.int32),
        "token_type_ids": np.zeros(lengths.sum(), np.uint8),
        "labels": chance.integers(0, 2, count),
    }
    return Encoded.from_arrays(arrays, pad_token_id=0)


def main() -> None:
    """Train, time the parts and print the shares."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--length", type=int, default=32)
    options = parser.parse_args()
    torch.set_num_threads(1)
    shape = {"hidden_size": 384, "num_hidden_layers": 3, "num_attention_heads": 12, "intermediate_size": 1536}
    model = BertForSequenceClassification(BertConfig(**shape))
    watch = Stopwatch()
    objective = LabelLoss(model)
    objective.forward = watch.around("forward", objective.forward)  # type: ignore[method-assign]
    torch.Tensor.backward = watch.around("backward", torch.Tensor.backward)  # type: ignore[method-assign]
    torch.optim.AdamW.step = watch.around("optimiser", torch.optim.AdamW.step)  # type: ignore[method-assign]
    torch.nn.utils.clip_grad_norm_ = watch.around("optimiser", torch.nn.utils.clip_grad_norm_)
    budget = Budget(epochs=100, max_steps=options.steps, batch_size=32)
    settings = Settings(budget, "benchmark", 0, "fp32", torch.device("cpu"))
    started = time.perf_counter()
    train(model, None, [Stage("labels", 1.0, objective)], rows(2000, options.length), settings)
    total = time.perf_counter() - started
    parts = watch.seconds
    overhead = 1 - sum(parts.values()) / total
    for name, seconds in {**parts, "everything else": total - sum(parts.values())}.items():
        print(f"{name:16} {1000 * seconds / options.steps:8.2f} ms a step {seconds / total:7.1%}")
    print(
        json.dumps(
            {
                "benchmark": "loop_overhead",
                "step": EagerStep.__name__,
                "steps": options.steps,
                "length": options.length,
                "ms_per_step": 1000 * total / options.steps,
                "overhead_share": overhead,
                "target": 0.05,
            }
        )
    )


if __name__ == "__main__":
    main()
