"""How long the way from text to tokens and from logits to answers takes, on real rows.

Real GLUE pairs are repeated until there are as many as in the largest tasks, so that tokenising, writing and mapping
are those of a full task; SQuAD v1.1's validation questions are scored from random logits, for which no shortcut exists.

    MOEBENCH_DATA=folder python benchmarks/data_path.py [--pairs 400000] [--checkpoint embedded]

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from datasets import Dataset
from transformers import PreTrainedTokenizerBase

from bench import checkpoints
from bench.data import encode
from bench.evaluation import score
from bench.tasks import catalog

PAIRS = {"qnli": "train-part", "qqp": "train-part"}


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what the work returns, its seconds on the wall and on all cores together."""
    wall, cores = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cores


def encoding(name: str, data: Path, pairs: int, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Encode real pairs of a task, repeated; then map them from the cache."""
    task = catalog.find(name)
    table = pq.read_table(data / "glue" / name / f"{PAIRS[name]}.parquet", columns=[*task.text, task.label])
    table = pa.concat_tables([table] * (pairs // len(table) + 1)).slice(0, pairs)
    rows = Dataset(table.append_column("idx", pa.array(map(str, range(pairs)))))
    with tempfile.TemporaryDirectory() as cache:
        encoded, wall, cores = timed(
            lambda: encode(task, rows, tokenizer, cache=Path(cache), key="benchmark")
        )
        _, again, _ = timed(lambda: encode(task, rows, tokenizer, cache=Path(cache), key="benchmark"))
    found = {
        "tokens": int(encoded.lengths.sum()),
        "seconds": wall,
        "core_seconds": cores,
        "mapped_seconds": again,
    }
    print(
        f"{name}: {pairs:,} pairs in {wall:.1f} s ({cores:.1f} s of the cores), from the cache in {again:.2f} s"
    )
    return found


def answering(data: Path, tokenizer: PreTrainedTokenizerBase) -> dict[str, float]:
    """Score the validation questions of SQuAD v1.1 from random logits."""
    task = catalog.find("squad-v1.1")
    rows = Dataset.from_parquet(str(data / "squad/v1.1/validation.parquet"))
    encoded, encoding_wall, _ = timed(lambda: encode(task, rows, tokenizer, cache=None, key="benchmark"))
    shape = (2, len(encoded.lengths), int(encoded.lengths.max()))
    starts, ends = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    _, wall, cores = timed(lambda: score(task, rows, encoded, (starts, ends)))
    print(
        f"{task.name}: {len(rows):,} questions from logits to scores in {wall:.1f} s ({cores:.1f} s of the cores)"
    )
    return {"encoding_seconds": encoding_wall, "seconds": wall, "core_seconds": cores}


def main() -> None:
    """Time each part and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=400_000)
    parser.add_argument("--checkpoint", default="embedded")
    options = parser.parse_args()
    torch.set_num_threads(1)
    data = Path(os.environ["MOEBENCH_DATA"])
    tokenizer = checkpoints.load_tokenizer(checkpoints.resolve(options.checkpoint))
    found: dict[str, Any] = {name: encoding(name, data, options.pairs, tokenizer) for name in PAIRS}
    found["squad-v1.1"] = answering(data, tokenizer)
    targets = {"pairs": 400_000, "pairs_seconds": 60, "squad_seconds": 10}
    print(
        json.dumps(
            {
                "benchmark": "data_path",
                "pairs": options.pairs,
                "cores": os.cpu_count(),
                **found,
                "target": targets,
            }
        )
    )


if __name__ == "__main__":
    main()
