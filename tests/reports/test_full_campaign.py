"""The page of a full campaign stays small enough to be sent and opened: nine tasks, ten methods, five seeds."""

from __future__ import annotations

from itertools import product
from pathlib import Path

import pytest
from synthetic import ENVIRONMENT, cell, latency, save_predictions

from reports import write
from results.frame import from_records
from results.record import CellRecord, WorkloadRecord
from results.store import RunFolder

TASKS = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "squad-v1.1", "stsb")
METHODS = ("teacher", "finetune", "distilbert", "prune", "moebert", *(f"moebert[knob={n}]" for n in range(5)))
SIZES = product((1, 8, 32, 128), (32, 64, 128, 512))
GRID = [
    WorkloadRecord(name=f"b{batch}xl{length}", batch_size=batch, length=length) for batch, length in SIZES
]
MOST = 3_000_000  # bytes


def scored(label: str, task: str, seed: int) -> CellRecord:
    """Make a cell; MNLI has a second validation split, as it is."""
    one = cell(label, task, seed)
    extra = {"validation_mismatched": one.scores["validation"]} if task == "mnli" else {}
    return one.model_copy(update={"scores": {**one.scores, **extra}})


@pytest.mark.slow
def test_the_page_of_a_full_campaign_is_below_three_megabytes(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    cells = [scored(label, task, seed) for task in TASKS for label in METHODS for seed in range(1, 6)]
    for one in cells:
        save_predictions(folder, one, rows=100)
    timings = [
        latency(one, workload=workload)
        for one in cells
        if one.label != "teacher" and one.task == "mnli"
        for workload in GRID
    ]
    assert (len(cells), len(timings)) == (450, 720)
    frame = from_records([*cells, *timings], environments={ENVIRONMENT.id: ENVIRONMENT}, folder=folder)
    page = write(frame, tmp_path / "report", "Full campaign")[0]
    assert page.stat().st_size < MOST
    text = page.read_text(encoding="utf-8")
    for figure in ("pareto", "retained", "seeds", "speedup", "ranks", "training"):
        assert f'id="figure-{figure}"' in text
