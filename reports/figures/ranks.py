"""The critical-difference diagram of Demšar (2006): average ranks over tasks, and which are told apart."""

from __future__ import annotations

import math

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy import special

from reports.figures.style import INK, PAGE_WIDTH, figure_of, short
from reports.outcomes import averaged_tasks, labels, task_scores, teacher_label
from results.frame import Frame

LEVEL = 0.95
FEWEST_TASKS = 5
FEWEST_METHODS = 3


def average_ranks(frame: Frame) -> tuple[dict[str, float], int]:
    """Return the mean rank of every student that finished all tasks, best first, and the number of tasks."""
    names = averaged_tasks(frame)
    means: dict[str, list[float]] = {}
    for label in labels(frame):
        found = [task_scores(frame, task, label) for task in names]
        if label != teacher_label(frame) and all(found):
            means[label] = [float(np.mean(list(scores.values()))) for scores in found]
    if not means:
        return {}, len(names)
    scores = np.array(list(means.values()))  # [methods, tasks]
    better = (scores > scores[:, None]).sum(axis=1)
    equal = (scores == scores[:, None]).sum(axis=1)  # itself included
    ranks: NDArray[np.float64] = (better + (equal + 1) / 2).mean(axis=1)
    return dict(sorted(zip(means, ranks.tolist(), strict=True), key=lambda item: item[1])), len(names)


def critical_difference(methods: int, count: int) -> float:
    """Return how far mean ranks over ``count`` tasks must lie apart (Nemenyi's test at 5 %)."""
    return range_quantile(methods) / math.sqrt(2) * math.sqrt(methods * (methods + 1) / (6 * count))


def range_quantile(count: int) -> float:
    """Return what the range of ``count`` normal numbers stays below in 95 of 100 cases.

    That is the studentized range of infinitely many degrees of freedom; ``scipy.stats`` has it too, but its import
    takes as long as a figure.
    """
    lowest = np.linspace(-9, 9, 2001)
    density = np.exp(-(lowest**2) / 2) / math.sqrt(2 * math.pi)

    def below(width: float) -> float:
        others = (special.ndtr(lowest + width) - special.ndtr(lowest)) ** (count - 1)
        return float(count * np.trapezoid(density * others, lowest))

    low, high = 0.0, 20.0
    for _ in range(60):  # halves the interval until no digit is left
        middle = (low + high) / 2
        low, high = (middle, high) if below(middle) < LEVEL else (low, middle)
    return middle


def groups(ranks: list[float], distance: float) -> list[tuple[int, int]]:
    """Return the longest runs of sorted ranks that lie within the distance, as (first, last) places."""
    found: list[tuple[int, int]] = []
    for first in range(len(ranks)):
        last = max(place for place in range(first, len(ranks)) if ranks[place] - ranks[first] <= distance)
        if last > first and (not found or last > found[-1][1]):
            found.append((first, last))
    return found


def draw(frame: Frame) -> Figure | None:
    """Draw ranks on a line, names below, bars over those not told apart; None for fewer than 5 tasks or 3 methods."""
    ranks, count = average_ranks(frame)
    if count < FEWEST_TASKS or len(ranks) < FEWEST_METHODS:
        return None
    distance = critical_difference(len(ranks), count)
    values = list(ranks.values())
    bars = groups(values, distance)
    depth = -(-len(ranks) // 2)
    figure, axis = figure_of(PAGE_WIDTH, 0.9 + 0.12 * len(bars) + 0.17 * depth)
    axis.set_xlim(1, len(ranks))
    axis.set_ylim(-depth - 0.5, 1.5 + 0.7 * len(bars))
    axis.hlines(0, 1, len(ranks), color=INK, linewidth=0.8)
    for rank in range(1, len(ranks) + 1):
        axis.vlines(rank, 0, 0.25, color=INK, linewidth=0.8)
        axis.text(rank, 0.45, str(rank), ha="center", va="bottom", fontsize=7)
    for place, (label, mean) in enumerate(ranks.items()):
        left = place < depth
        height = -1.0 - (place if left else len(ranks) - 1 - place)
        edge = 1 if left else len(ranks)
        axis.plot([mean, mean, edge], [0, height, height], color=INK, linewidth=0.6, clip_on=False)
        text, side = f"{short(label)} ({mean:.2f})", "right" if left else "left"
        axis.annotate(text, (edge, height), (-3 if left else 3, 0), textcoords="offset points", ha=side, va="center",
                      fontsize=7, annotation_clip=False)  # fmt: skip
    for number, (first, last) in enumerate(bars):
        axis.hlines(1.5 + 0.7 * number, values[first], values[last], color=INK, linewidth=2.5)
    axis.set_axis_off()
    axis.set_title(f"average rank over {count} tasks; critical difference {distance:.2f}")
    return figure
