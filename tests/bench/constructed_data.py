"""A data folder with a few made-up rows of every task of GLUE and SQuAD, in the layout that the suite reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from bench.tasks import catalog
from bench.tasks.task import Task

TASKS = tuple(name for name in catalog.names() if name != "rotten-tomatoes")


def write_data(folder: Path, *, train: int = 24, test: int = 10) -> Path:
    """Write every split of every task; rows of a test split have no label."""
    for name in TASKS:
        task = catalog.find(name)
        for role, stem in task.splits.items():
            configuration, _, split = stem.rpartition(":")
            base = folder / str(task.directory)
            file = (base.parent / configuration if configuration else base) / f"{split}.parquet"
            file.parent.mkdir(parents=True, exist_ok=True)
            count = train if role == "train" else test
            pq.write_table(pa.Table.from_pylist([_row(task, role, row) for row in range(count)]), file)
    return folder


def _row(task: Task, role: str, number: int) -> dict[str, Any]:
    words = ["good film", "bad plot", "fine cast", "poor scene", "great story"]
    row: dict[str, Any] = {
        column: f"the {words[(number + place) % 5]} was {role} {number}"
        for place, column in enumerate(task.text)
    }
    if task.id:
        row[task.id] = str(number) if task.head == "extractive-qa" else number
    unlabelled = role.startswith("test")
    if task.head == "classification":
        row[task.label] = -1 if unlabelled else number % task.num_labels
    elif task.head == "regression":
        row[task.label] = -1.0 if unlabelled else number % 6 * 1.0
    else:
        row[task.label] = {"text": [words[(number + 1) % 5]], "answer_start": [4]}
    return row
