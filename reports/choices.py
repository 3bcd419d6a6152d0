"""What the page can switch on and off, and the points of its interactive plot, as plain data."""

from __future__ import annotations

from typing import Any

from reports.figures import pareto
from reports.figures.style import INK, marks
from reports.outcomes import labels, main_score, tasks
from reports.statistics import Estimate
from results.frame import Frame

COSTS: tuple[tuple[str, str, pareto.Cost], ...] = (
    ("time", "time relative to the teacher", pareto.relative_time),
    ("multiply_adds", "multiply-adds of one sequence (G)", pareto.multiply_adds),
    ("memory", "peak memory of inference (MB)", pareto.peak_memory),
)


def choices(frame: Frame) -> dict[str, Any]:
    """Return methods with their marks, tasks with their scores, and every point with its costs."""
    methods, names, styles = labels(frame), tasks(frame), marks(frame)
    points: dict[tuple[int, int], dict[str, Any]] = {}
    used = []
    for key, name, cost in COSTS:
        found = 0
        for task_number, task in enumerate(names):
            for point in pareto.points(frame, task, cost):
                number = methods.index(point.label)
                entry = {
                    "task": task_number,
                    "method": number,
                    "card": number,
                    "score": _ends(point.score),
                    "costs": {},
                }
                points.setdefault((task_number, number), entry)["costs"][key] = _ends(point.cost)
                found += 1
        used += [{"key": key, "name": name}] if found else []
    return {
        "ink": INK,
        "methods": [
            {"label": label, "colour": styles[label].colour, "marker": styles[label].marker}
            for label in methods
        ],
        "tasks": names,
        "scores": [main_score(frame, task) for task in names],
        "costs": used,
        "points": list(points.values()),
    }


def _ends(estimate: Estimate) -> list[float]:
    low = estimate.mean if estimate.low is None else estimate.low
    high = estimate.mean if estimate.high is None else estimate.high
    return [float(f"{value:.6g}") for value in (estimate.mean, low, high)]
