"""Accuracy against measured latency, with the Pareto front and intervals in both directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from reports.figures.style import DOT, GRID, INK, Mark, legend, marks, panels
from reports.outcomes import labels, main_score, outcomes, tasks, teacher_label
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
    shown = [
        label
        for label in labels(frame)
        if any(point.label == label for found in by_task.values() for point in found)
    ]
    legend(figure, {label: styles[label] for label in shown})
    return figure


def _panel(axis: Any, points: Sequence[Point], styles: Mapping[str, Mark]) -> None:
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
    colours = [styles[point.label].colour for point in points]
    times, scores = [point.time.mean for point in points], [point.score.mean for point in points]
    axis.vlines(times, *_ends([point.score for point in points]), colors=colours, linewidth=0.9, zorder=2)
    axis.hlines(scores, *_ends([point.time for point in points]), colors=colours, linewidth=0.9, zorder=2)
    for marker in dict.fromkeys(styles[point.label].marker for point in points):
        same = [place for place, point in enumerate(points) if styles[point.label].marker == marker]
        axis.scatter(
            [times[place] for place in same],
            [scores[place] for place in same],
            c=[colours[place] for place in same],
            marker=marker,
            s=DOT[marker == "*"],
            edgecolors="white",
            linewidths=0.5,
            zorder=3,
        )
    _limit_to_means(axis, scores)
    axis.set_xlim(0, 1.06 * max(times))


def _ends(estimates: Sequence[Estimate]) -> tuple[list[float], list[float]]:
    lows = [one.mean if one.low is None else one.low for one in estimates]
    highs = [one.mean if one.high is None else one.high for one in estimates]
    return lows, highs


def _limit_to_means(axis: Any, means: Sequence[float]) -> None:
    """Keep a wide interval of few seeds from squeezing the points together: bars may leave the panel."""
    room = max(0.75 * (max(means) - min(means)), 1.0)
    low, high = axis.get_ylim()
    axis.set_ylim(max(low, min(means) - room), min(high, max(means) + room))


def _inverse(ratio: Estimate) -> Estimate:
    low, high = ratio.low or ratio.mean, ratio.high or ratio.mean
    return Estimate(1 / ratio.mean, 1 / high, 1 / low, ratio.n)
