"""One knob at a time: the score as a single knob of a method moves and all others stay."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from reports.figures.style import COLOURS, MARKERS, panels, short
from reports.outcomes import outcomes, tasks
from reports.statistics import mean_interval
from reports.tables.ablation import variants
from results.frame import Frame

BESIDE = 0.08  # between two sweeps at the same value
LEGEND_LINE = 0.12  # of what is drawn
Scores = list[tuple[Any, list[float]]]  # of each value of a knob, × 100, seed by seed


@dataclass(frozen=True)
class Sweep:
    """Variants of a method that differ in one knob alone, in the order of its values.

    Attributes:
        others: What tells it from sweeps of the same knob, as in ``routing=gate-token``; empty where there is one.
    """

    method: str
    knob: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]
    others: str = ""


def sweeps(frame: Frame) -> list[Sweep]:
    """Return, for each knob of each method, the largest sets of variants in which only that knob moves.

    Of sets equally large there are no more than colours to tell them apart.
    """
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
            most = max(map(len, groups.values()))
            if most > 1:
                largest = [(json.loads(rest), group) for rest, group in groups.items() if len(group) == most]
                found += _told_apart(method, knob, largest[: len(COLOURS)])
    return found


def _told_apart(method: str, knob: str, largest: list[tuple[dict[str, Any], dict[str, Any]]]) -> list[Sweep]:
    """Name sweeps of one knob by what else differs between them."""
    first, _ = largest[0]
    differing = [name for name in first if any(rest[name] != first[name] for rest, _ in largest)]
    found = []
    for rest, group in largest:
        ordered = sorted(group.items(), key=lambda item: _order(item[1]))
        others = ", ".join(f"{name}={rest[name]}" for name in differing)
        found.append(
            Sweep(method, knob, tuple(v for _, v in ordered), tuple(label for label, _ in ordered), others)
        )
    return found


def draw(frame: Frame) -> Figure | None:
    """Draw a panel for each task of each knob, joined where the knob is a number; None without a sweep.

    Tasks lie far apart: one axis for all of them would hide the differences that a knob makes.
    """
    by_knob: dict[tuple[str, str], list[Sweep]] = defaultdict(list)
    for sweep in sweeps(frame):
        by_knob[sweep.method, sweep.knob].append(sweep)
    found = [
        (task, drawn)
        for same in by_knob.values()
        for task in tasks(frame)
        for drawn in [[(sweep, _scored(frame, sweep, task)) for sweep in same]]
        if any(scores for _, scores in drawn)
    ]
    if not found:
        return None
    figure, axes = panels(len(found), height=1.9)
    for axis, (task, drawn) in zip(axes, found, strict=True):
        _panel(axis, drawn)
        axis.set_title(f"{drawn[0][0].method}, {short(task, 24)}")
    return figure


def _panel(axis: Axes, drawn: list[tuple[Sweep, Scores]]) -> None:
    """Draw the sweeps of one knob on one task."""
    values: list[Any] = []  # a set would ask for values that can be hashed
    for sweep, _ in drawn:
        values += [value for value in sweep.values if value not in values]
    values.sort(key=_order)
    joined = "-" if all(isinstance(value, int | float) for value in values) else ""
    for number, (sweep, scores) in enumerate(drawn):
        beside = BESIDE * (number - (len(drawn) - 1) / 2)
        places = [values.index(value) + beside for value, _ in scores]
        means = [mean_interval(found) for _, found in scores]
        axis.plot(
            places,
            [one.mean for one in means],
            linestyle=joined,
            color=COLOURS[number],
            marker=MARKERS[number],
            label=sweep.others,
        )
        for place, one in zip(places, means, strict=True):
            if one.low is not None and one.high is not None:
                axis.vlines(place, one.low, one.high, color=COLOURS[number], linewidth=0.8)
    axis.set_xticks(range(len(values)), [_tick(value) for value in values])
    if not joined and len(values) > 3:
        axis.tick_params(axis="x", labelsize="small" if len(values) < 5 else "x-small")
    axis.set_xlim(-0.4, len(values) - 0.6)
    axis.set_xlabel(drawn[0][0].knob)
    axis.set_ylabel("main score × 100")
    if len(drawn) > 1:
        low, high = axis.get_ylim()
        axis.set_ylim(low, high + (high - low) * LEGEND_LINE * len(drawn))  # room above what is drawn
        axis.legend(fontsize="x-small", loc="upper right")


def _scored(frame: Frame, sweep: Sweep, task: str) -> Scores:
    """Return the scores of each value of a knob on a task; those that have any."""
    scored = outcomes(frame, task)
    found = [
        (value, [100 * score for score in scored[label].scores.values()])
        for value, label in zip(sweep.values, sweep.labels, strict=True)
    ]
    return [(value, scores) for value, scores in found if scores]


def _tick(value: Any) -> str:
    """Break a name at its hyphens: side by side, names run into each other."""
    return value.replace("-", "-\n") if isinstance(value, str) else str(value)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers first, by size; then all else by its text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not is_number, float(value) if is_number else 0.0, str(value)
