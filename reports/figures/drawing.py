"""Draw the figures of a report, with other processes beside this one where there is much to draw."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from types import TracebackType

import joblib
from joblib.externals.loky import ProcessPoolExecutor

from reports.figures.fonts import warn_of_missing
from reports.figures.style import FigureEntry, files, names_in
from results.frame import Frame

Files = Mapping[str, bytes]

MANY = 1500  # cells and timings from which on another process is worth its start
MOST = 4  # processes: there are few figures
_frames: list[Frame] = []  # of a process that draws for another: the one frame


def useful_processes(frame: Frame) -> int:
    """Return how many processes draw this frame soonest."""
    many = len(frame.cells) + len(frame.latency) >= MANY
    return min(int(joblib.cpu_count()), MOST) if many else 1


class Figures(AbstractContextManager["Figures"]):
    """Figures that other processes draw while this one does something else.

    Args:
        entries: What to draw.
        frame: Where from.
        processes: This one included; the files are the same however many there are.
    """

    def __init__(self, entries: Sequence[FigureEntry], frame: Frame, processes: int) -> None:
        self._entries, self._frame = entries, frame
        warn_of_missing(names_in(frame))
        self._waiting = deque(range(len(entries)))
        self._drawn: dict[int, Files | None] = {}
        others = min(processes - 1, len(entries))
        self._pool = (
            ProcessPoolExecutor(others, initializer=_receive, initargs=(frame,)) if others > 0 else None
        )
        # One thread for each of them: handing the frame over takes as long as their imports.
        self._threads = ThreadPoolExecutor(max(others, 1))
        self._helpers = [self._threads.submit(self._draw_elsewhere) for _ in range(others)]

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._waiting.clear()
        self._threads.shutdown()
        if self._pool:
            self._pool.shutdown()

    def collect(self) -> list[tuple[FigureEntry, Files]]:
        """Draw from the end what no other process has begun, and return the figures that there are in their order."""
        for number in _taken(self._waiting.pop):
            self._drawn[number] = _draw(self._entries[number], self._frame)
        for helper in self._helpers:
            helper.result()
        drawn = ((entry, self._drawn[number]) for number, entry in enumerate(self._entries))
        return [(entry, saved) for entry, saved in drawn if saved is not None]

    def _draw_elsewhere(self) -> None:
        """Let another process draw one figure after the other, from the beginning."""
        assert self._pool is not None
        for number in _taken(self._waiting.popleft):
            self._drawn[number] = self._pool.submit(_draw_there, self._entries[number]).result()


def _taken(take: Callable[[], int]) -> Iterator[int]:
    """Take what waits, until somebody has taken the last."""
    while True:
        try:
            number = take()
        except IndexError:
            return
        yield number


def _receive(frame: Frame) -> None:
    _frames.append(frame)


def _draw_there(entry: FigureEntry) -> Files | None:
    return _draw(entry, _frames[-1])


def _draw(entry: FigureEntry, frame: Frame) -> Files | None:
    return next((saved for _, saved in files([entry], frame)), None)
