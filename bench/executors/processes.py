"""Cells side by side in processes, each with its own threads and GPU (joblib's loky)."""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.managers import SyncManager
from pathlib import Path
from queue import Queue
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bench.events import Event, Listener
from bench.executors.gpus import occupy, take, usable
from bench.executors.serial import run_watched

if TYPE_CHECKING:
    from concurrent.futures import Future

    from joblib.externals.loky import ProcessPoolExecutor

    from bench.cell import Job
    from results.record import CellRecord

GROWTH = 8 * 2**30  # bytes that a worker may gain before loky replaces it


class Workers:
    """Processes that make cells, batch after batch.

    They start together with the first batch and stay for the next ones, for each needs seconds to import and to warm up
    a GPU: where one cell comes first, a teacher, the others rehearse it meanwhile.

    A worker that dies (out of memory, a crash in native code, a fault on the GPU) takes the pool with it. The cells
    that were under way are then made one at a time, each in a process of its own, and one whose process dies again is
    recorded as failed. The others have a new pool. Where a rehearsal may have died, no cell is under suspicion yet.

    Args:
        expected: As many cells as a batch is likely to have; a larger one has a new pool of more workers.
        workers: At most so many processes, as ``most_workers`` takes it.
        threads: Of the CPU, each.
        listener: Told what happens.
        places: As ``bench.executors.gpus.places`` names them; none where there is no GPU.
        variables: Of the workers' environment, beside the number of threads.
    """

    def __init__(
        self,
        expected: int,
        workers: int | None,
        threads: int,
        listener: Listener,
        places: Sequence[str] = (),
        variables: Mapping[str, str] | None = None,
    ) -> None:
        self.expected = expected
        self.limit = most_workers(workers, places)
        self.places = tuple(places)
        own = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads))
        self.variables = {**own, **(variables or {})}
        self.listener = listener

    def __enter__(self) -> Workers:
        self._relay, self._pools = ExitStack(), ExitStack()
        self._queue = self._relay.enter_context(relay(self.listener))
        self._shared: ProcessPoolExecutor | None = None
        self._rehearsals: list[Future[None]] | None = None  # there are some once only, with the first batch
        self._count = 0
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        with self._relay:
            self._end_shared()

    def make(self, jobs: Sequence[Job]) -> Iterator[CellRecord]:
        """Make the cells of one batch and yield each one's record as it is left; who stops early ends the others."""
        from joblib.externals.loky.process_executor import BrokenProcessPool

        left = list(jobs)
        suspects: list[Job] = []
        try:
            while left:
                try:
                    for record in self._made_by(self._shared_for(len(left)), left):
                        left = [job for job in left if job.cell_id != record.id]
                        yield record
                except BrokenProcessPool:
                    # cells are begun in order: those under way are the first of what is left
                    under_way = 0 if self._rehearsing() else self._count
                    suspects, left = left[:under_way], left[under_way:]
                    self._end_shared()
                while suspects:
                    yield from self._made_alone(suspects.pop(0))
        finally:
            if left or suspects:
                self._end_shared()

    def _shared_for(self, jobs: int) -> ProcessPoolExecutor:
        """Return the pool; a new one where a worker died since the last batch, or more are needed."""
        from joblib.externals.loky.process_executor import BrokenProcessPool

        count = min(self.limit, max(self.expected, jobs))
        if self._shared is not None:
            try:
                self._shared.submit(os.getpid).result()
            except BrokenProcessPool:
                self._count = 0
            if self._count < count:
                self._end_shared()
        if self._shared is None:
            self._shared, self._count = self._pools.enter_context(self._pool(count)), count
        return self._shared

    def _rehearsing(self) -> bool:
        """Say whether a rehearsal has not ended, or by the death of its pool."""
        return any(not future.done() or future.exception() for future in self._rehearsals or ())

    def _end_shared(self) -> None:
        self._shared, self._rehearsals = None, []
        self._pools.close()

    def _made_alone(self, job: Job) -> Iterator[CellRecord]:
        from joblib.externals.loky.process_executor import BrokenProcessPool

        try:
            with self._pool(1) as pool:
                yield from self._made_by(pool, [job], alone=True)
        except BrokenProcessPool as error:
            yield _died(job, error, self.listener)

    def _made_by(
        self, pool: ProcessPoolExecutor, jobs: Sequence[Job], *, alone: bool = False
    ) -> Iterator[CellRecord]:
        from concurrent.futures import as_completed

        futures = [pool.submit(_leave_if_lost, run_watched, job, self._queue.put, alone) for job in jobs]
        if self._rehearsals is None:
            self._rehearsals = [pool.submit(_rehearse, jobs[0]) for _ in range(self._count - len(jobs))]
        for future in as_completed(futures):
            yield future.result()

    @contextmanager
    def _pool(self, count: int) -> Iterator[ProcessPoolExecutor]:
        from joblib.externals.loky import ProcessPoolExecutor

        with TemporaryDirectory(prefix="moebench-places-") as locks:
            pool = ProcessPoolExecutor(
                max_workers=count,
                env=self.variables,
                initializer=_begin,
                initargs=(os.getpid(), self.places, Path(locks)),
            )
            try:
                yield pool
            finally:
                pool.shutdown(wait=True, kill_workers=True)


def most_workers(workers: int | None, places: Sequence[str]) -> int:
    """Return how many processes there can be: as many as asked for (None: one a core), but one a place on a GPU."""
    return min(workers or len(places), len(places)) if places else workers or os.cpu_count() or 1


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
    from joblib.externals.loky import process_executor

    _end_with(parent)
    process_executor._MAX_MEMORY_LEAK_SIZE = GROWTH  # no option has it; kernels that CUDA loads are no leak
    if places:
        place = take(places, locks)
        occupy(place, places.count(place))


def _rehearse(job: Job) -> None:
    """Rehearse a cell; a process that loses its GPU over it ends, and the pool with it."""
    from bench.rehearsal import rehearse

    # the cell itself will say why; raised to loky, the error would keep the model alive by its traceback
    with suppress(Exception):
        rehearse(job)
    if not usable():
        os._exit(1)


def _end_with(parent: int) -> None:
    """Make this process end when the run is killed: nobody would wait for its cell, and the next run makes it again."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def relay(listener: Listener) -> Iterator[Queue[Event | None]]:
    """Give workers a queue whose events reach the listener from a thread that blocks, never polls."""
    manager = SyncManager(ctx=multiprocessing.get_context("spawn"))
    manager.start(_end_with, (os.getpid(),))
    with manager:
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
