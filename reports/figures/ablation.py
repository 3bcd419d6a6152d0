"""One knob at a time: the score as a single knob of a method moves and all others stay."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from reports.figures.style import COLOURS, MARKERS, panels, short
from reports.outcomes import outcomes, tasks
from reports.statistics import mean_interval
from reports.tables.ablation import variants
from results.frame import Frame


@dataclass(frozen=True)
class Sweep:
    """Variants of a method that differ in one knob alone, in the order of its values."""

    method: str
    knob: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]


def sweeps(frame: Frame) -> list[Sweep]:
    """Return, for each knob of each method, the largest set of variants in which only that knob moves."""
    found = []
    for method in sorted(frame.cells["method"].unique()):
        configs = variants(frame, method)
        for knob in next(iter(configs.values()), {}):
            groups: dict[str, dict[str, Any]] = defaultdict(dict)
            for label, config in configs.items():
                rest = json.dumps(
                    {name: value for name, value in config.items() if name != knob}, sort_keys=True
                )
                groups[rest][label] = config[knob]
            largest = max(groups.values(), key=len)
            if len(largest) > 1:
                ordered = sorted(largest.items(), key=lambda item: _order(item[1]))
                found.append(
                    Sweep(method, knob, tuple(v for _, v in ordered), tuple(label for label, _ in ordered))
                )
    return found


def draw(frame: Frame) -> Figure | None:
    """Draw a panel for each task of each sweep, joined where the knob is a number; None without a sweep.

    Tasks lie far apart: one axis for all of them would hide the differences that a knob makes.
    """
    found = [
        (sweep, task, scores)
        for sweep in sweeps(frame)
        for task in tasks(frame)
        if (scores := _scored(frame, sweep, task))
    ]
    if not found:
        return None
    figure, axes = panels(len(found), height=1.9)
    for axis, (sweep, task, scores) in zip(axes, found, strict=True):
        means = [mean_interval(values) for values in scores.values()]
        joined = "-" if all(isinstance(value, int | float) for value in sweep.values) else ""
        axis.plot(
            list(scores), [one.mean for one in means], linestyle=joined, color=COLOURS[0], marker=MARKERS[0]
        )
        spread = [(place, one) for place, one in zip(scores, means, strict=True) if one.low is not None]
        axis.vlines([place for place, _ in spread], [one.low for _, one in spread], [one.high for _, one in spread],
                    color=COLOURS[0], linewidth=0.8)  # fmt: skip
        axis.set_xticks(range(len(sweep.values)), [_tick(value) for value in sweep.values])
        if not joined and len(sweep.values) > 3:
            axis.tick_params(axis="x", labelsize="small" if len(sweep.values) < 5 else "x-small")
        axis.set_xlim(-0.4, len(sweep.values) - 0.6)
        axis.set_xlabel(sweep.knob)
        axis.set_ylabel("main score × 100")
        axis.set_title(f"{sweep.method}, {short(task, 24)}")
    return figure


def _scored(frame: Frame, sweep: Sweep, task: str) -> dict[int, list[float]]:
    """Return the scores × 100 of each value of a knob on a task, by the value's place; those that have any."""
    scored = outcomes(frame, task)
    found = {place: scored[label].scores.values() for place, label in enumerate(sweep.labels)}
    return {place: [100 * score for score in scores] for place, scores in found.items() if scores}


def _tick(value: Any) -> str:
    """Break a name at its hyphens: side by side, names run into each other."""
    return value.replace("-", "-\n") if isinstance(value, str) else str(value)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers first, by size; then all else by its text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not is_number, float(value) if is_number else 0.0, str(value)
