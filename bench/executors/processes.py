"""Cells side by side in processes of their own, each with its own threads and GPU (joblib's loky)."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from bench.events import Event, Listener
from bench.executors.gpus import occupy, take, usable
from bench.executors.serial import run_watched

if TYPE_CHECKING:
    from bench.cell import Job
    from results.record import CellRecord


def run_in_processes(
    jobs: Sequence[Job],
    workers: int | None,
    threads: int,
    listener: Listener,
    places: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[CellRecord]:
    """Make the cells in up to ``workers`` processes (None: one a place on a GPU, or a core).

    A worker that dies (out of memory, a crash in native code, a fault on the GPU) takes the pool with it. The cells
    that are left are then made one at a time, each in a process of its own, and one whose process dies again is
    recorded as failed.

    Args:
        jobs: The cells.
        workers: At most so many processes.
        threads: Of the CPU, each.
        listener: Told what happens.
        places: As ``bench.executors.gpus.places`` names them; none where there is no GPU.
        variables: Of the workers' environment, beside the number of threads.
    """
    from joblib.externals.loky.process_executor import BrokenProcessPool

    done: set[str] = set()
    count = min(workers or len(places) or os.cpu_count() or 1, len(places) or len(jobs), len(jobs))
    with _relay(listener) as queue:
        try:
            for record in _pool(jobs, count, threads, queue, places, variables):
                done.add(record.id)
                yield record
        except BrokenProcessPool:
            for job in (job for job in jobs if job.cell_id not in done):
                try:
                    yield from _pool([job], 1, threads, queue, places, variables)
                except BrokenProcessPool as error:
                    yield _died(job, error, listener)


def _pool(
    jobs: Sequence[Job],
    count: int,
    threads: int,
    queue: Queue[Event | None],
    places: Sequence[str] = (),
    variables: Mapping[str, str] | None = None,
) -> Iterator[CellRecord]:
    from concurrent.futures import as_completed

    from joblib.externals.loky import ProcessPoolExecutor

    own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
    with TemporaryDirectory(prefix="moebench-places-") as locks:
        begin = (os.getpid(), tuple(places), Path(locks))
        pool = ProcessPoolExecutor(
            max_workers=count, env={**own, **(variables or {})}, initializer=_begin, initargs=begin
        )
        try:
            alone = len(jobs) == 1
            for future in as_completed(
                [pool.submit(_leave_if_lost, run_watched, job, queue.put, alone) for job in jobs]
            ):
                yield future.result()
        finally:
            pool.shutdown(wait=True, kill_workers=True)


def _leave_if_lost(
    make: Callable[[Job, Listener], CellRecord], job: Job, listener: Listener, alone: bool
) -> CellRecord:
    """Make a cell; after a fault on the GPU this process is of no use to the cells that would follow."""
    record = make(job, listener)
    if record.status == "failed" and not alone and not usable():
        os._exit(1)
    return record


def _begin(parent: int, places: Sequence[str], locks: Path) -> None:
    """Tie this worker to the run, and give it a place on a GPU, where there are any."""
    _end_with(parent)
    if places:
        place = take(places, locks)
        occupy(place, places.count(place))


def _end_with(parent: int) -> None:
    """Make this worker end when the run is killed: nobody would wait for its cell, and the next run makes it again."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _relay(listener: Listener) -> Iterator[Queue[Event | None]]:
    """Give workers a queue whose events reach the listener from a thread that blocks, never polls."""
    with multiprocessing.get_context("spawn").Manager() as manager:
        queue: Any = manager.Queue()

        def forward() -> None:
            while (event := queue.get()) is not None:
                listener(event)

        thread = threading.Thread(target=forward, daemon=True)
        thread.start()
        try:
            yield queue
        finally:
            queue.put(None)
            thread.join()


def _died(job: Job, error: BaseException, listener: Listener) -> CellRecord:
    from bench.cell import record_failure

    reason = "its process died twice (out of memory, or a crash in native code)"
    record = record_failure(job, reason, str(error))
    listener(Event("finished", job.name, status=record.status, reason=reason))
    return record
