"""Does a training repeat, bit for bit, and what would it cost to make it?

A checkpoint is trained twice from the same seed on random rows, in one process, dropout on, for each longest row and
each way to attend: `auto` as torch chooses, which is how the suite trains, `efficient` by its memory-efficient kernel
alone, `deterministic` with torch's deterministic algorithms asked for, `math` by plain products. With `deterministic`
among them all have the cuBLAS workspace that it insists on. Printed is by how much the weights of both differ, relative
to how far the training moved them (0: the same bits), and the milliseconds of a step, captures included.

    python benchmarks/repeatability.py
    python benchmarks/repeatability.py --teacher FOLDER --lengths 128 512 --ways auto efficient

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parameters_to_vector

from bench import checkpoints
from bench.cell import LabelLoss
from bench.encoded import Encoded
from bench.method import Stage
from bench.toys import toy_task
from bench.training import Settings, train
from results.record import Budget

ROWS, BATCH = 256, 32
FIRST_TOKEN, VOCABULARY = 1000, 30000  # whole words of BERT's vocabulary


@contextmanager
def deterministic() -> Iterator[None]:
    """Ask torch for its deterministic algorithms."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # costs time, changes nothing that is read
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


WAYS: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "auto": nullcontext,
    "efficient": lambda: sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION),
    "deterministic": deterministic,
    "math": lambda: sdpa_kernel(SDPBackend.MATH),
}


def main() -> None:
    """Train twice for each length and way."""
    options = parse()
    if "deterministic" in options.ways:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    found = []
    for length in options.lengths:
        for way in options.ways:
            with WAYS[way]():
                runs = [trained(options, length, device) for _ in range(2)]
            (first, start, milliseconds), (second, _, again) = runs
            apart = float((first - second).norm() / (first - start).norm())
            row = {"length": length, "way": way, "apart": apart, "ms": [milliseconds, again]}
            found.append(row)
            print(
                f"{length:4} tokens, {way:13} {apart:8.1e} apart, {min(milliseconds, again):6.2f} ms a step",
                flush=True,
            )
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    print(
        json.dumps({"benchmark": "repeatability", "device": name, "torch": torch.__version__, "rows": found})
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="embedded", help="embedded, or a folder")
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["auto", "efficient", "deterministic"])
    parser.add_argument("--epochs", type=int, default=50)
    parser.add_argument("--precision", choices=["bf16", "fp32"], default="bf16")
    return parser.parse_args()


def trained(
    options: argparse.Namespace, length: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, float]:
    """Train a fresh copy of the checkpoint, and return its weights, those before, and the milliseconds of a step."""
    task = toy_task("classification").model_copy(update={"max_length": length})
    checkpoint = checkpoints.resolve(options.teacher)
    model = checkpoints.load_model(checkpoint, task, seed=0).to(device)
    before = parameters_to_vector(model.parameters()).detach().clone()
    budget = Budget(epochs=options.epochs, batch_size=BATCH)
    settings = Settings(budget, task.name, 0, options.precision, device)
    stages = [Stage(name="labels", share=1.0, objective=LabelLoss(model))]
    record = train(model, None, stages, random_rows(length).to(device), settings)
    weights = parameters_to_vector(model.parameters()).detach().clone()
    return weights, before, 1000 * record.seconds / record.steps


def random_rows(longest: int) -> Encoded:
    """Make rows of half to all of the longest length."""
    chance = np.random.default_rng(0)
    lengths = chance.integers(longest // 2, longest, ROWS, endpoint=True, dtype=np.int32)
    tokens = chance.integers(FIRST_TOKEN, VOCABULARY, lengths.sum(), dtype=np.int32)
    arrays = {
        "input_ids": tokens,
        "token_type_ids": np.zeros_like(tokens),
        "labels": chance.integers(0, 3, ROWS),
        "lengths": lengths,
        "rows": np.arange(ROWS, dtype=np.int32),
        "ids": np.arange(ROWS).astype(str),
    }
    return Encoded.from_arrays(arrays, pad_token_id=0)


if __name__ == "__main__":
    main()
