from __future__ import annotations

import io

from rich.console import Console

from bench.display import Display
from bench.events import Event


def shown(*events: Event, terminal: bool = False) -> str:
    text = io.StringIO()
    with Display(Console(file=text, force_terminal=terminal, width=120, color_system=None)) as display:
        for event in events:
            display(event)
    return text.getvalue()


STORY = (
    Event("planned", steps=3),
    Event("started", "a [weird] name"),
    Event("step", "a [weird] name", stage="labels", step=1, steps=4, loss=0.25),
    Event("finished", "a [weird] name", status="done"),
    Event("started", "b"),
    Event("finished", "b", status="failed", reason="RuntimeError: [red]no"),
    Event("timing", "4 points on tiny, seed 0"),
)


def test_plain_lines_say_what_happened_and_what_is_left():
    lines = shown(*STORY).splitlines()
    assert lines[0] == "started   a [weird] name"
    assert lines[1].startswith("done      a [weird] name  (1 done, 0 failed, 2 left, about ")
    assert lines[3].startswith("failed    b: RuntimeError: [red]no  (1 done, 1 failed, 1 left, about ")
    assert lines[4] == "timing    4 points on tiny, seed 0"


def test_a_terminal_sees_the_step_and_the_loss():
    text = shown(*STORY[:3], terminal=True)
    assert "labels, loss 0.25" in text
    assert "1/4" in text


def test_nothing_is_drawn_while_the_clock_runs():
    text = io.StringIO()
    display = Display(Console(file=text, force_terminal=True, width=120))
    with display:
        for event in STORY:
            display(event)
        assert display.progress.live.is_started is False
