"""Show a run as it goes: a live line on a terminal, plain lines elsewhere, silence while the clock runs."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from bench.events import Event

PLAIN_EVERY_SECONDS = 20.0


class Display:
    """Listen to a run and show it on standard error.

    Args:
        console: Where to show it.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.live = console.is_terminal
        self.planned = self.done = self.failed = 0
        self.started = time.monotonic()
        self.last_plain: dict[str, float] = {}
        self.bars: dict[str, TaskID] = {}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=console,
            disable=not self.live,
            transient=True,
        )
        self.overall = self.progress.add_task("cells", total=None, note="reading teacher, methods and rows")

    def __enter__(self) -> Display:
        self.progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.progress.stop()

    def __call__(self, event: Event) -> None:
        """Take an event in; called from one thread at a time."""
        getattr(self, f"_{event.kind}")(event)

    def _planned(self, event: Event) -> None:
        self.planned += event.steps
        self._update()

    def _started(self, event: Event) -> None:
        self.bars[event.cell] = self.progress.add_task(f"  {event.cell}", total=None, note="preparing")
        if not self.live:
            self.console.print(f"started   {event.cell}", highlight=False, markup=False)

    def _step(self, event: Event) -> None:
        note = f"{event.stage}, loss {event.loss:.4g}"
        self.progress.update(self.bars[event.cell], completed=event.step, total=event.steps, note=note)
        now = time.monotonic()
        if not self.live and now - self.last_plain.get(event.cell, self.started) >= PLAIN_EVERY_SECONDS:
            self.last_plain[event.cell] = now
            steps = f"step {event.step}/{event.steps}"
            self.console.print(f"          {event.cell}: {steps}, {note}", highlight=False, markup=False)

    def _finished(self, event: Event) -> None:
        self.done += 1
        self.failed += event.status == "failed"
        if event.cell in self.bars:
            self.progress.remove_task(self.bars.pop(event.cell))
        reason = f": {event.reason}" if event.reason else ""
        line = f"{event.status:9} {event.cell}{reason}  ({self._counts()})"
        self.console.print(
            line, highlight=False, markup=False, style="red" if event.status == "failed" else None
        )
        self._update()

    def _timing(self, event: Event) -> None:
        self.progress.stop()  # a redrawn line would take time from what is timed
        self.console.print(f"timing    {event.cell}", highlight=False, markup=False)

    def _counts(self) -> str:
        return f"{self.done - self.failed} done, {self.failed} failed, {self.planned - self.done} left{self._left()}"

    def _left(self) -> str:
        if not self.done or self.done >= self.planned:
            return ""
        seconds = (time.monotonic() - self.started) / self.done * (self.planned - self.done)
        return f", about {seconds / 60:.0f} min" if seconds >= 90 else f", about {seconds:.0f} s"

    def _update(self) -> None:
        self.progress.update(self.overall, total=self.planned, completed=self.done, note=self._counts())
