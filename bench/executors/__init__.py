"""Ways to work through the cells of a matrix, behind one door: jobs and a listener in, records out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from bench.executors.gpus import places
from bench.executors.mps import multi_process_service
from bench.executors.processes import run_in_processes
from bench.executors.serial import run_serially

if TYPE_CHECKING:
    from bench.cell import Job
    from bench.events import Listener
    from bench.matrix import ExecutorPlan
    from results.record import CellRecord


def execute(jobs: Sequence[Job], plan: ExecutorPlan, listener: Listener) -> Iterator[CellRecord]:
    """Work through the jobs and yield each one's record as it is left."""
    if plan.name == "serial" or len(jobs) < 2:
        yield from run_serially(jobs, listener)
    else:
        service: AbstractContextManager[dict[str, str]] = (
            multi_process_service() if plan.mps else nullcontext({})
        )
        with service as variables:
            yield from run_in_processes(jobs, plan.workers, plan.threads, listener, places(plan), variables)
