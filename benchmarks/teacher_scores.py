"""Whether the suite fine-tunes a teacher as well as the transformers Trainer does: scores over many seeds.

What the two do differently: the suite draws each batch from rows of like length, its steps are captured as CUDA graphs
on a GPU, and its data path is its own. The Trainer draws rows at random and pads a batch to its longest row. The
checkpoint, the rows, steps, learning rate, warm-up, clipping, weight decay and precision are the same. Printed are mean
and standard deviation of the validation accuracy, and the difference with Welch's 95 % interval.

    python benchmarks/teacher_scores.py --teacher FOLDER --data DATA          # DATA/glue/mrpc/train.parquet, ...

The last line of standard output is one JSON document.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from scipy import stats

from bench.executors.mps import multi_process_service
from bench.tasks import catalog
from bench.training import total_steps
from results.record import Budget

EPOCHS = {"mrpc": 5, "rte": 10}
COLUMNS = ("sentence1", "sentence2")


def main() -> None:
    """Fine-tune both ways, side by side, and compare."""
    options = parse()
    with ExitStack() as services:
        if options.mps:
            os.environ.update(services.enter_context(multi_process_service()))
        scores = {"suite": by_suite(options), "trainer": by_trainer(options)}
    differences = {}
    for task in options.tasks:
        suite, trainer = (100 * np.array(scores[way][task]) for way in ("suite", "trainer"))
        low, high = stats.ttest_ind(suite, trainer, equal_var=False).confidence_interval()
        differences[task] = {"points": suite.mean() - trainer.mean(), "interval": [low, high]}
        for way, values in (("suite", suite), ("trainer", trainer)):
            print(
                f"{task:5} {way:8} {values.mean():5.1f} ± {values.std(ddof=1):3.1f} (sd of {len(values)}), "
                f"{values.min():.1f} to {values.max():.1f}"
            )
        print(f"{task:5} suite - trainer {suite.mean() - trainer.mean():+.1f} [{low:+.1f}, {high:+.1f}]")
    print(
        json.dumps(
            {
                "benchmark": "teacher_scores",
                "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
                "torch": torch.__version__,
                "learning_rate": options.learning_rate,
                "accuracy": scores,
                "difference": differences,
            }
        )
    )


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--teacher", required=True, help="folder of the checkpoint to fine-tune")
    parser.add_argument(
        "--data", required=True, help="folder with glue/TASK/train.parquet and validation.parquet"
    )
    parser.add_argument("--tasks", nargs="+", choices=EPOCHS, default=[*EPOCHS])
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--max-steps", type=int, help="to try the script out")
    parser.add_argument("--workers", type=int, default=1, help="trainings side by side")
    parser.add_argument("--mps", action="store_true", help="those through NVIDIA's multi-process service")
    options = parser.parse_args()
    if options.seeds < 2:
        parser.error(f"--seeds: a spread needs at least 2, not {options.seeds}")
    return options


def budget_of(options: argparse.Namespace, task: str) -> Budget:
    """Return what both ways spend on a task."""
    return Budget(epochs=EPOCHS[task], max_steps=options.max_steps, learning_rate=options.learning_rate)


def by_suite(options: argparse.Namespace) -> dict[str, list[float]]:
    """Run a matrix and read the teachers' accuracies from its records."""
    with tempfile.TemporaryDirectory(prefix="moebench-scores-") as scratch:
        matrix, out = Path(scratch, "scores.yaml"), Path(scratch, "run")
        plan = {
            "name": "scores",
            "teacher": options.teacher,
            "data": options.data,
            "tasks": options.tasks,
            "methods": ["finetune"],  # a matrix has one method at least
            "seeds": list(range(options.seeds)),
            "by_task": {
                task: {"budget": budget_of(options, task).model_dump(exclude_none=True)}
                for task in options.tasks
            },
            "executor": {"name": "processes", "cells_per_gpu": options.workers},
        }
        matrix.write_text(yaml.safe_dump(plan), encoding="utf-8")
        command = [sys.executable, "-m", "bench.cli", "run", str(matrix), "--out", str(out)]
        # standard output is ours; what the run says of itself is for the log
        subprocess.run([*command, "--no-latency", "--no-report"], check=True, stdout=sys.stderr)
        records = [json.loads(file.read_bytes()) for file in sorted((out / "records").glob("*.json"))]
    teachers = [record for record in records if record["kind"] == "cell" and record["teacher_id"] is None]
    if failed := [record["reason"] for record in teachers if record["status"] != "done"]:
        raise SystemExit(f"teachers that are not done: {'; '.join(failed)}")
    teachers.sort(key=lambda record: record["identity"]["seed"])
    return {
        task: [
            record["scores"]["validation"]["accuracy"]
            for record in teachers
            if record["identity"]["task"]["name"] == task
        ]
        for task in options.tasks
    }


@dataclass(frozen=True)
class Job:
    """One training by the Trainer."""

    task: str
    seed: int
    teacher: str
    data: str
    budget: Budget


def by_trainer(options: argparse.Namespace) -> dict[str, list[float]]:
    """Fine-tune by the Trainer, several at a time."""
    jobs = [
        Job(task, seed, options.teacher, options.data, budget_of(options, task))
        for task in options.tasks
        for seed in range(options.seeds)
    ]
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        accuracies = list(pool.map(fine_tune, jobs))
    return {
        task: [found for job, found in zip(jobs, accuracies, strict=True) if job.task == task]
        for task in options.tasks
    }


def fine_tune(job: Job) -> float:
    """Return the validation accuracy of a checkpoint that the Trainer fine-tuned."""
    from datasets import load_dataset
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        PrinterCallback,
        Trainer,
        TrainingArguments,
        set_seed,
    )

    torch.set_num_threads(1)
    set_seed(job.seed)
    splits = ("train", "validation")
    files = {split: str(Path(job.data, "glue", job.task, f"{split}*.parquet")) for split in splits}
    tokenizer = AutoTokenizer.from_pretrained(job.teacher)
    max_length = catalog.find(job.task).max_length

    def encode(rows: dict[str, Any]) -> Any:
        return tokenizer(*(rows[column] for column in COLUMNS), truncation=True, max_length=max_length)

    with tempfile.TemporaryDirectory(prefix="moebench-trainer-") as scratch:
        rows = load_dataset("parquet", data_files=files, cache_dir=f"{scratch}/cache").map(
            encode, batched=True
        )
        trainer = Trainer(
            model=AutoModelForSequenceClassification.from_pretrained(job.teacher, dtype=torch.float32),
            args=TrainingArguments(
                output_dir=f"{scratch}/out",
                seed=job.seed,
                max_steps=total_steps(len(rows["train"]), job.budget),
                per_device_train_batch_size=job.budget.batch_size,
                learning_rate=job.budget.learning_rate,
                warmup_steps=job.budget.warmup,  # a share of the steps
                weight_decay=job.budget.weight_decay,
                max_grad_norm=job.budget.max_grad_norm,
                bf16=torch.cuda.is_available(),  # as the suite has it
                save_strategy="no",
                logging_strategy="no",
                report_to=[],
                disable_tqdm=True,
            ),
            train_dataset=rows["train"],
            data_collator=DataCollatorWithPadding(tokenizer),
        )
        trainer.remove_callback(PrinterCallback)
        trainer.train()
        said = trainer.predict(rows["validation"])
    return float((said.predictions.argmax(-1) == said.label_ids).mean())


if __name__ == "__main__":
    main()
