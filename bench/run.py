"""Run a matrix: tuning, teachers, students, then the clock, each resumed from the records that are there."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.events import Event, Listener, ignore
from bench.executors import executor, require
from bench.latency.session import time_matrix
from bench.matrix import Matrix, matrix_yaml
from bench.selection import Part
from bench.space import require_space
from bench.survey import REDO, Cell, Overwrite, Survey, to_make
from results.record import CellRecord
from results.store import RunFolder, write_atomically


@dataclass(frozen=True)
class Outcome:
    """Where a matrix stands after a run.

    Attributes:
        folder: The run folder.
        cells: State -> number of students' and teachers' cells.
        tries: State -> number of tries of the tuning.
        timings: State -> number of timings.
        failures: What failed, and why.
        records: Ids of the matrix's cells and timings; the folder may hold those of other matrices too.
    """

    folder: Path
    cells: dict[str, int]
    tries: dict[str, int]
    timings: dict[str, int]
    failures: list[str]
    records: frozenset[str]

    def document(self) -> dict[str, Any]:
        """Return what the last line of standard output says, as plain data."""
        return {
            "run": str(self.folder),
            "cells": self.cells,
            "tries": self.tries,
            "timings": self.timings,
            "failures": self.failures,
        }


def run(
    matrix: Matrix,
    out: Path,
    *,
    overwrite: Overwrite = "failed",
    listener: Listener = ignore,
    only: Sequence[Part] = (),
    tries_only: bool = False,
) -> Outcome:
    """Bring a run folder up to date with a matrix, or with some of it.

    Cells that are done are left alone unless ``overwrite`` says otherwise; a failing cell leaves its record and the
    rest goes on.

    Args:
        matrix: What is asked for; the folder keeps it whole.
        out: The run folder.
        overwrite: What is made again.
        listener: Hears how it goes.
        only: The cells to make, and the tries that decide for them; none means all.
        tries_only: Stop once the knobs are chosen.

    Raises:
        UserError: For input that can be refused before anything is written.
    """
    folder = RunFolder(out)
    survey = Survey(matrix, folder, only)
    tuning, making = (survey.teacher_tries, survey.student_tries), (survey.teachers, survey.students)
    batches = tuning if tries_only else (*tuning, *making)
    waiting = {batch: sum(cell.state in REDO[overwrite] for cell in batch()) for batch in (*tuning, *making)}
    expected = max(waiting[batch] for batch in batches)
    require(matrix.executor, expected)
    _require_space(survey, sum(waiting[batch] for batch in making))
    with folder.lock():
        write_atomically(folder.matrix_file, matrix_yaml(matrix).encode())
        with executor(matrix.executor, expected, listener) as execute:
            for batch in batches:
                cells = batch()
                keep_tuning(folder, cells)
                jobs = to_make(cells, overwrite)
                listener(Event("planned", steps=len(jobs)))
                for _ in execute(jobs):
                    pass
        timings = [] if tries_only else time_matrix(survey, overwrite, listener)
    everything = [] if tries_only else [*survey.teachers(), *survey.students()]
    tries = [*survey.teacher_tries(), *survey.student_tries()]
    failures = [
        f"{cell.name}: {cell.reason}" for cell in (*tries, *everything) if cell.state in {"failed", "missing"}
    ]
    failures += [
        f"timing of {timing.label} ({timing.workload.name}): {timing.reason}"
        for timing in timings
        if timing.status == "failed"
    ]
    return Outcome(
        folder=out,
        cells=dict(Counter(cell.state for cell in everything)),
        tries=dict(Counter(cell.state for cell in tries)),
        timings=dict(Counter(timing.status for timing in timings)),
        failures=failures,
        records=frozenset(
            record.id for record in (*(cell.record for cell in everything), *timings) if record is not None
        ),
    )


def _require_space(survey: Survey, waiting: int) -> None:
    """Refuse a full disk before the first cell: every cell keeps a checkpoint, about as large as the teacher's."""
    weights = sum(file.stat().st_size for file in survey.checkpoint.folder.glob("*.safetensors"))
    require_space(survey.folder.path, waiting * weights, f"the checkpoints of {waiting} cells")


def keep_tuning(folder: RunFolder, cells: Sequence[Cell]) -> None:
    """Write into finished records how their knobs were chosen, and set aside what earlier tuning had chosen.

    More tries may find another winner, or the same one again.
    """
    chosen = {}
    for cell in cells:
        if cell.job is None or cell.job.tuning is None:
            continue
        chosen[cell.task, cell.label, cell.seed, cell.job.identity.limit] = cell.job.cell_id
        if cell.record is not None and cell.record.tuning != cell.job.tuning:
            folder.write(cell.record.model_copy(update={"tuning": cell.job.tuning}))
    if chosen:
        folder.set_superseded_aside(
            record.id
            for record in folder.records()
            if isinstance(record, CellRecord)
            and record.tuning is not None
            and chosen.get(
                (record.task, record.label, record.identity.seed, record.identity.limit), record.id
            )
            != record.id
        )
