"""The figures of a report: one ordered registry; a caller may pass its own entries beside or instead."""

from __future__ import annotations

from reports.figures import curves, pareto
from reports.figures.style import FigureEntry

FIGURES: tuple[FigureEntry, ...] = (
    FigureEntry(
        "pareto",
        "Accuracy against measured latency",
        "Up and left is better. Each point is a method: vertical bars are the 95 % t-interval over seeds, horizontal "
        "bars the 95 % interval of the timing; time is relative to the teacher's in the same process (1, the grey "
        "line). The dashed line is the Pareto front: methods that no other beats in both. Bars that leave the panel "
        "are cut.",
        pareto.draw,
    ),
    FigureEntry(
        "training",
        "Training curves",
        "Weighted sum of the loss terms over the steps, one line a seed. Methods minimise different losses: compare "
        "the shape, not the height. A dotted line is where the next stage begins with a fresh schedule.",
        curves.draw,
    ),
)
