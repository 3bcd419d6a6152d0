"""What a run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Event:
    """Something that happened to one cell, or to the whole run.

    Attributes:
        kind: ``planned`` (``steps`` cells are to be made next), ``started``, ``step``, ``finished``, or ``timing`` (the
            clock starts: whoever watches must not use the processor).
        cell: What to call it: method, task and seed.
        status: Of the record, when finished.
        reason: Why it failed or was skipped.
        stage: Under way.
        step: Steps done.
        steps: Of the whole training.
        loss: Mean since the last event.
    """

    kind: Literal["planned", "started", "step", "finished", "timing"]
    cell: str = ""
    status: str = ""
    reason: str = ""
    stage: str = ""
    step: int = 0
    steps: int = 0
    loss: float = 0.0


Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
