"""Accuracy against what it costs: measured latency, multiply-adds, memory; with the Pareto front and intervals."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from reports.figures.style import DOT, GRID, INK, Mark, heading, legend, marks, panels
from reports.outcomes import FRAMES, labels, main_score, outcomes, tasks, teacher_label
from reports.statistics import Estimate, mean_interval
from reports.timings import Setting, headline, speedup, timings
from results.frame import Frame

Cost = Callable[[Frame, str, str], Estimate | None]  # of a method on a task


@dataclass(frozen=True)
class Point:
    """One method on one task.

    Attributes:
        cost: Smaller is better; with its interval.
        score: Mean main score x 100 over seeds, with its interval.
    """

    label: str
    cost: Estimate
    score: Estimate


def relative_time(frame: Frame, task: str, label: str) -> Estimate | None:
    """Return the time of a call over the teacher's in the same process, under the headline conditions."""
    setting = headline(frame)
    if setting is None:
        return None
    if label == teacher_label(frame):
        return Estimate(1.0, 1.0, 1.0, 1)
    ratio = speedup(frame, setting, label, task=task)
    if ratio is None:
        return None
    low, high = ratio.low or ratio.mean, ratio.high or ratio.mean
    return Estimate(1 / ratio.mean, 1 / high, 1 / low, ratio.n)


def multiply_adds(frame: Frame, task: str, label: str) -> Estimate | None:
    """Return 10^9 multiply-adds of one sequence; the ends are the extremes over seeds."""
    return _extremes(_multiply_adds(frame).get((task, label), ()))


def peak_memory(frame: Frame, task: str, label: str) -> Estimate | None:
    """Return the peak memory of inference in MB under the headline conditions; the ends are the extremes over seeds."""
    setting = headline(frame)
    if setting is None:
        return None
    return _extremes(_peak_memories(frame, setting).get((task, label), ()))


def points(frame: Frame, task: str, cost: Cost) -> list[Point]:
    """Return the methods that have both a score and a cost on the task."""
    found = []
    for label, outcome in outcomes(frame, task).items():
        spent = cost(frame, task, label) if outcome.scores else None
        if spent is not None:
            found.append(
                Point(label, spent, mean_interval([100 * score for score in outcome.scores.values()]))
            )
    return found


def pareto_front(found: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats or equals in both, and beats in one, cheapest first."""
    front: list[Point] = []
    for point in sorted(found, key=lambda point: (point.cost.mean, -point.score.mean)):
        if not front or point.score.mean > front[-1].score.mean:
            front.append(point)
    return front


def drawing(cost: Cost, name: str) -> Callable[[Frame], Figure | None]:
    """Make the drawing of scores against a cost: a panel a task; None where no two methods have that cost."""

    def draw(frame: Frame) -> Figure | None:
        by_task = {task: found for task in tasks(frame) if len(found := points(frame, task, cost)) > 1}
        if not by_task:
            return None
        figure, axes = panels(len(by_task), height=2.9)
        styles = marks(frame)
        for axis, (task, found) in zip(axes, by_task.items(), strict=True):
            _panel(axis, found, styles)
            axis.set_title(heading(task))
            axis.set_ylabel(f"{main_score(frame, task)} × 100")
            axis.set_xlabel(name)
        present = {point.label for found in by_task.values() for point in found}
        legend(figure, {label: styles[label] for label in labels(frame) if label in present})
        return figure

    return draw


def _panel(axis: Any, found: Sequence[Point], styles: Mapping[str, Mark]) -> None:
    front = pareto_front(found)
    axis.step(
        [point.cost.mean for point in front],
        [point.score.mean for point in front],
        where="post",
        color=INK,
        linewidth=0.8,
        linestyle=(0, (4, 2)),
        zorder=1,
    )
    colours = [styles[point.label].colour for point in found]
    costs, scores = [point.cost.mean for point in found], [point.score.mean for point in found]
    axis.vlines(costs, *_ends([point.score for point in found]), colors=colours, linewidth=0.9, zorder=2)
    axis.hlines(scores, *_ends([point.cost for point in found]), colors=colours, linewidth=0.9, zorder=2)
    for marker in dict.fromkeys(styles[point.label].marker for point in found):
        same = [place for place, point in enumerate(found) if styles[point.label].marker == marker]
        axis.scatter(
            [costs[place] for place in same],
            [scores[place] for place in same],
            c=[colours[place] for place in same],
            marker=marker,
            s=DOT[marker == "*"],
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
        )
        for place in same:
            if marker == "*":
                axis.axvline(costs[place], color=GRID, linewidth=1.0, zorder=0)
    _limit_to_means(axis, scores)
    axis.set_xlim(0, 1.06 * max(costs))


def _ends(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    lows = [one.mean if one.low is None else one.low for one in estimates]
    highs = [one.mean if one.high is None else one.high for one in estimates]
    return lows, highs


def _limit_to_means(axis: Any, means: Sequence[float]) -> None:
    """Keep a wide interval of few seeds from squeezing the points together: bars may leave the panel."""
    room = max(0.75 * (max(means) - min(means)), 1.0)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, min(means) - room), min(high, max(means) + room))


@lru_cache(maxsize=FRAMES)
def _multiply_adds(frame: Frame) -> Mapping[tuple[str, str], Sequence[float]]:
    return _by_method(frame.cells, "multiply_adds", 1e9)


@lru_cache(maxsize=FRAMES)
def _peak_memories(frame: Frame, setting: Setting) -> Mapping[tuple[str, str], Sequence[float]]:
    timed = timings(frame, setting)
    found = _by_method(timed, "peak_memory_bytes", 1e6)
    teacher = teacher_label(frame)
    if teacher is not None:
        baselines = timed.assign(label=teacher)
        found |= _by_method(baselines, "baseline_peak_memory_bytes", 1e6)
    return found


def _by_method(rows: pd.DataFrame, column: str, unit: float) -> dict[tuple[str, str], list[float]]:
    found: dict[tuple[str, str], list[float]] = defaultdict(list)
    known = rows.dropna(subset=[column])
    for task, label, value in zip(known["task"], known["label"], known[column], strict=True):
        found[task, label].append(float(value) / unit)
    return dict(found)


def _extremes(values: Sequence[float]) -> Estimate | None:
    return Estimate(sum(values) / len(values), min(values), max(values), len(values)) if values else None
