"""Accuracy against measured latency, with the Pareto front and intervals in both directions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from reports.figures.style import GRID, INK, Mark, marks, panels
from reports.outcomes import main_score, outcomes, tasks, teacher_label
from reports.statistics import Estimate, mean_interval
from reports.timings import headline, speedup
from results.frame import Frame


@dataclass(frozen=True)
class Point:
    """One method on one task.

    Attributes:
        time: Time of a call over the teacher's in the same process, with its interval.
        score: Mean main score x 100 over seeds, with its interval.
    """

    label: str
    time: Estimate
    score: Estimate


def latency_points(frame: Frame, task: str) -> list[Point]:
    """Return the methods that were both scored on the task and timed on it under the headline conditions."""
    setting = headline(frame)
    if setting is None:
        return []
    points = []
    for label, outcome in outcomes(frame, task).items():
        if not outcome.scores:
            continue
        if label == teacher_label(frame):
            time = Estimate(1.0, 1.0, 1.0, 1)
        else:
            ratio = speedup(frame, setting, label, task=task)
            if ratio is None:
                continue
            time = _inverse(ratio)
        points.append(Point(label, time, mean_interval([100 * score for score in outcome.scores.values()])))
    return points


def pareto_front(points: Sequence[Point]) -> list[Point]:
    """Return the points that no other beats or equals in both, and beats in one, fastest first."""
    front: list[Point] = []
    for point in sorted(points, key=lambda point: (point.time.mean, -point.score.mean)):
        if not front or point.score.mean > front[-1].score.mean:
            front.append(point)
    return front


def draw(frame: Frame) -> Figure | None:
    """Draw a panel a task; None where nothing was timed."""
    by_task = {task: points for task in tasks(frame) if len(points := latency_points(frame, task)) > 1}
    if not by_task:
        return None
    figure, axes = panels(len(by_task), height=2.9)
    styles = marks(frame)
    for axis, (task, points) in zip(axes, by_task.items(), strict=True):
        _panel(axis, points, styles)
        axis.set_title(task)
        axis.set_ylabel(f"{main_score(frame, task)} × 100")
        axis.set_xlabel("time relative to the teacher")
    shown = list(dict.fromkeys(point.label for points in by_task.values() for point in points))
    handles = {
        label: handle
        for axis in axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend([handles[label] for label in shown], shown, loc="outside right upper")
    return figure


def _panel(axis: Any, points: Sequence[Point], styles: dict[str, Mark]) -> None:
    front = pareto_front(points)
    axis.step(
        [point.time.mean for point in front],
        [point.score.mean for point in front],
        where="post",
        color=INK,
        linewidth=0.8,
        linestyle=(0, (4, 2)),
        zorder=1,
    )
    axis.axvline(1.0, color=GRID, linewidth=1.0, zorder=0)
    for point in points:
        style = styles[point.label]
        axis.errorbar(
            point.time.mean,
            point.score.mean,
            xerr=_bars(point.time),
            yerr=_bars(point.score),
            fmt=style.marker,
            color=style.colour,
            markeredgecolor="white",
            markeredgewidth=0.5,
            elinewidth=0.8,
            label=point.label,
            zorder=3,
        )
    _limit_to_means(axis, [point.score.mean for point in points])
    axis.set_xlim(left=0)


def _limit_to_means(axis: Any, means: Sequence[float]) -> None:
    """Keep a wide interval of few seeds from squeezing the points together: bars may leave the panel."""
    room = max(0.75 * (max(means) - min(means)), 1.0)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, min(means) - room), min(high, max(means) + room))


def _bars(estimate: Estimate) -> list[list[float]] | None:
    if estimate.low is None or estimate.high is None:
        return None
    return [[estimate.mean - estimate.low], [estimate.high - estimate.mean]]


def _inverse(ratio: Estimate) -> Estimate:
    low, high = ratio.low or ratio.mean, ratio.high or ratio.mean
    return Estimate(1 / ratio.mean, 1 / high, 1 / low, ratio.n)
