"""One cell after another, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from bench.events import Event, Listener

if TYPE_CHECKING:
    from bench.cell import Job
    from results.record import CellRecord


def run_serially(jobs: Sequence[Job], listener: Listener) -> Iterator[CellRecord]:
    """Make the cells in the order given."""
    for job in jobs:
        yield run_watched(job, listener)


def run_watched(job: Job, listener: Listener) -> CellRecord:
    """Make one cell and tell the listener how it goes."""
    from bench.cell import run_cell

    name = job.name
    listener(Event("started", name))

    def report(stage: str, step: int, steps: int, loss: float) -> None:
        listener(Event("step", name, stage=stage, step=step, steps=steps, loss=loss))

    record = run_cell(job, report)
    listener(Event("finished", name, status=record.status, reason=record.reason))
    return record
