"""Training curves: one panel a method, since the losses of two methods share no scale."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.figures.style import COLOURS, INK, heading, legend_below, panels
from reports.outcomes import labels
from results.frame import Frame

DASHES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))
PANELS = 12
WIDE = 10  # largest over smallest loss from which three ticks a decade are enough
LINES = 15  # of a panel; more seeds and tasks than this are drawn as the mean over seeds


def draw(frame: Frame) -> Figure | None:
    """Draw the weighted sum of the terms over the steps; None where nothing was trained."""
    losses = frame.curves[frame.curves["term"] == "loss"]
    by_label = dict(tuple(losses.groupby("label")))
    known = [label for label in labels(frame) if label in by_label]
    if not known:
        return None
    shown = known[:PANELS]
    names = sorted(losses["task"].unique())
    styles = {
        task: {
            "color": COLOURS[place % len(COLOURS)],
            "linestyle": DASHES[place // len(COLOURS) % len(DASHES)],
        }
        for place, task in enumerate(names)
    }
    figure, axes = panels(len(shown), height=1.6)
    for axis, label in zip(axes, shown, strict=True):
        _panel(axis, by_label[label], styles)
        axis.set_title(heading(label))
    if len(known) > len(shown):
        figure.suptitle(f"the first {len(shown)} of {len(known)} in the order of the main table", fontsize=7)
    if len(names) > 1:
        handles = {task: axes[0].plot([], [], **style)[0] for task, style in styles.items()}
        legend_below(figure, list(handles.values()), list(handles))
    return figure


def _panel(axis: Any, losses: pd.DataFrame, styles: Mapping[str, Mapping[str, Any]]) -> None:
    lines = losses[["task", "seed"]].drop_duplicates()
    if len(lines) > LINES:
        losses = (
            losses.groupby(["task", "stage", "step"], as_index=False, sort=False)["value"]
            .mean()
            .assign(seed=0)
        )
    for (task, _, _), curve in losses.groupby(["task", "seed", "stage"], sort=True):
        points = curve.sort_values("step")
        axis.plot(points["step"], points["value"], alpha=0.8, **styles[str(task)])
    stages = losses.groupby("stage", sort=False)["step"].min()
    for start in stages[stages > stages.min()]:
        axis.axvline(start, color=INK, linewidth=0.6, linestyle=":")
    axis.set_yscale("log")
    low, high = axis.get_ylim()
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high > WIDE * low else (1, 1.5, 2, 3, 5, 7)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_locator(NullLocator())
    axis.set_xlabel("step")
    axis.set_ylabel("loss")
