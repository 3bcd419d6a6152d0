"""Ways to work through the cells of a matrix, behind one door: jobs and a listener in, records out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from bench.executors.gpus import places
from bench.executors.mps import multi_process_service, require_service
from bench.executors.processes import Workers
from bench.executors.serial import run_serially

if TYPE_CHECKING:
    from bench.cell import Job
    from bench.events import Listener
    from bench.matrix import ExecutorPlan
    from results.record import CellRecord

Execute = Callable[[Sequence["Job"]], "Iterator[CellRecord]"]
"""Works through a batch of jobs and yields each one's record as it is left."""


def require(plan: ExecutorPlan, expected: int) -> None:
    """Refuse a plan that this machine cannot work by, before anything is written.

    Raises:
        UserError: Where a GPU or the multi-process service that it asks for is missing.
    """
    if not _in_turn(plan, expected):
        places(plan)
        if plan.mps:
            require_service()


@contextmanager
def executor(plan: ExecutorPlan, expected: int, listener: Listener) -> Iterator[Execute]:
    """Give a function that works through a batch of jobs; what it starts for the first stays until the end.

    Args:
        plan: In this process or in others, and in how many.
        expected: As many jobs as a batch is likely to have.
        listener: Told what happens.
    """
    with ExitStack() as started:
        workers: Workers | None = None

        def execute(jobs: Sequence[Job]) -> Iterator[CellRecord]:
            nonlocal workers
            if workers is None and _in_turn(plan, max(expected, len(jobs))):
                yield from run_serially(jobs, listener)
            elif jobs:
                if workers is None:
                    variables = started.enter_context(multi_process_service()) if plan.mps else {}
                    workers = Workers(expected, plan.workers, plan.threads, listener, places(plan), variables)
                    started.enter_context(workers)
                yield from workers.make(jobs)

        yield execute


def _in_turn(plan: ExecutorPlan, jobs: int) -> bool:
    """Say whether this process works through the jobs itself."""
    return plan.name == "serial" or jobs < 2
