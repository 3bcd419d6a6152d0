"""What sharing a GPU gains: the same matrix with one cell at a time, several in turns, several side by side (MPS).

For each seed the teacher is fine-tuned and the methods make a student each from it, trained and evaluated, nothing
timed. Printed are the seconds of the whole command, of all teachers, and from the first student's beginning to the
last one's end.

    python benchmarks/packing.py                                 # embedded teacher and corpus
    python benchmarks/packing.py --task sst2 --data FOLDER       # rows of a folder of Parquet files
    python benchmarks/packing.py --methods distilbert tinybert finetune moebert  # four: none waits for a place
    python benchmarks/packing.py --seeds 3                       # and the more wait, the longer all places are taken

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
import yaml

METHODS = ["finetune", "distilbert", "tinybert", "prune-structured", "prune-magnitude", "moebert"]
ALONE = "one at a time"
WAYS = {
    ALONE: ["--cells-per-gpu", "1"],
    "four side by side": ["--cells-per-gpu", "4", "--mps"],
    "four in turns": ["--cells-per-gpu", "4"],
}
WARM_UP = 40  # steps
TO_REACH = {"whole_seconds": 240, "students_faster": 1.8}  # of one seed of SST-2


def main() -> None:
    """Run the matrix into fresh folders, the cells packed and one after another."""
    options = parse()
    if options.warm_up:
        run(options, WAYS[ALONE], max_steps=WARM_UP)  # kernels are compiled, files read, tokens cached
    runs = {}
    for name in dict.fromkeys([ALONE, *options.ways]):
        runs[name] = run(options, WAYS[name])
        print(f"{name}: {json.dumps(runs[name])}", flush=True)
    faster = {name: runs[ALONE]["students"] / seconds["students"] for name, seconds in runs.items()}
    print(
        json.dumps(
            {
                "benchmark": "packing",
                "gpu": torch.cuda.get_device_name(),
                "torch": torch.__version__,
                "task": options.task,
                "epochs": options.epochs,
                "methods": options.methods,
                "seeds": options.seeds,
                "seconds": runs,
                "students_faster": faster,
                "to_reach": TO_REACH,
            }
        )
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", default="embedded", help="embedded, or a folder")
    parser.add_argument("--task", default="rotten-tomatoes")
    parser.add_argument("--data", help="folder of Parquet files, for tasks that are read from one")
    parser.add_argument("--epochs", type=float, default=3)
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=METHODS)
    parser.add_argument("--seeds", type=int, default=1, help="how many")
    parser.add_argument(
        "--no-warm-up", dest="warm_up", action="store_false", help="of caches: where this was run just before"
    )
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=[*WAYS], help="beside one at a time")
    return parser.parse_args()


def run(options: argparse.Namespace, words: list[str], max_steps: int | None = None) -> dict[str, Any]:
    """Run the matrix into a fresh folder."""
    with tempfile.TemporaryDirectory(prefix="moebench-packing-") as scratch:
        matrix, out = Path(scratch, "packing.yaml"), Path(scratch, "run")
        matrix.write_text(yaml.safe_dump(matrix_of(options, max_steps)), encoding="utf-8")
        command = [sys.executable, "-m", "bench.cli", "run", str(matrix), "--out", str(out), "--no-latency"]
        started = time.perf_counter()
        subprocess.run([*command, *words], check=True)
        whole = time.perf_counter() - started
        return {"whole": round(whole, 1), **phases(out, options.seeds * (1 + len(options.methods)))}


def matrix_of(options: argparse.Namespace, max_steps: int | None) -> dict[str, Any]:
    """Return the matrix as its file would hold it."""
    return {
        "name": "packing",
        "teacher": options.teacher,
        "tasks": [options.task],
        "methods": options.methods,
        "seeds": list(range(options.seeds)),
        "budget": {"epochs": options.epochs, "max_steps": max_steps, "batch_size": 32, "learning_rate": 5e-5},
        "calibration_rows": 2048,
        "executor": {"name": "processes"},
        **({"data": options.data} if options.data else {}),
    }


def phases(run_folder: Path, expected: int) -> dict[str, Any]:
    """Read from the records how long the teachers took together, the students together, and each cell's steps."""
    records = [json.loads(file.read_bytes()) for file in sorted((run_folder / "records").glob("*.json"))]
    cells = [record for record in records if record["kind"] == "cell"]
    failed = [record["label"] for record in cells if record["status"] != "done"]
    if failed or len(cells) != expected:
        raise SystemExit(f"cells that are not done: {failed or 'some were never begun'}")
    return {
        "teachers": between([record for record in cells if record["teacher_id"] is None]),
        "students": between([record for record in cells if record["teacher_id"] is not None]),
        "cells": {
            f"{record['label']}, seed {record['identity']['seed']}": {
                "seconds": between([record]),
                "training": round(record["training"]["seconds"], 1),
                "execution": record["training"]["execution"],
            }
            for record in cells
            if record["training"]
        },
    }


def between(records: list[dict[str, Any]]) -> float:
    """Return the seconds from the first beginning to the last end."""
    begun = min(datetime.fromisoformat(record["started"]) for record in records)
    return (max(datetime.fromisoformat(record["finished"]) for record in records) - begun).total_seconds()


if __name__ == "__main__":
    main()
