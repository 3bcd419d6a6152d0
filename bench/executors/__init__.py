"""Ways to work through the cells of a matrix, behind one door: jobs and a listener in, records out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from typing import TYPE_CHECKING

from bench.executors.gpus import places
from bench.executors.mps import multi_process_service
from bench.executors.processes import Workers
from bench.executors.serial import run_serially

if TYPE_CHECKING:
    from bench.cell import Job
    from bench.events import Listener
    from bench.matrix import ExecutorPlan
    from results.record import CellRecord

Execute = Callable[[Sequence["Job"]], "Iterator[CellRecord]"]
"""Works through a batch of jobs and yields each one's record as it is left."""


@contextmanager
def executor(plan: ExecutorPlan, most: int, listener: Listener) -> Iterator[Execute]:
    """Lend what works through batches of jobs, one batch after another.

    Args:
        plan: How.
        most: No batch has more jobs.
        listener: Told what happens.
    """
    if plan.name == "serial" or most < 2:
        yield partial(run_serially, listener=listener)
        return
    service: AbstractContextManager[dict[str, str]] = multi_process_service() if plan.mps else nullcontext({})
    with (
        service as variables,
        Workers(most, plan.workers, plan.threads, listener, places(plan), variables) as workers,
    ):
        yield workers.make
