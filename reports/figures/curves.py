"""Training curves: one panel a method, since the losses of two methods share no scale."""

from __future__ import annotations

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from reports.figures.style import COLOURS, INK, panels
from reports.outcomes import labels
from results.frame import Frame

STYLES = ("-", (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)))


def draw(frame: Frame) -> Figure | None:
    """Draw the weighted sum of the terms over the steps, a line a seed; None where nothing was trained."""
    losses = frame.curves[frame.curves["term"] == "loss"]
    shown = [label for label in labels(frame) if label in set(losses["label"])]
    if not shown:
        return None
    names = sorted(losses["task"].unique())
    colours = {task: COLOURS[place % len(COLOURS)] for place, task in enumerate(names)}
    styles = {task: STYLES[place // len(COLOURS) % len(STYLES)] for place, task in enumerate(names)}
    figure, axes = panels(len(shown), height=1.6)
    by_label = dict(tuple(losses.groupby("label")))
    for axis, label in zip(axes, shown, strict=True):
        for (task, _), curve in by_label[label].groupby(["task", "seed"], sort=True):
            axis.plot(
                curve["step"],
                curve["value"],
                color=colours[task],
                linestyle=styles[task],
                alpha=0.8,
                label=task,
            )
            for start in curve.drop_duplicates("stage")["step"].iloc[1:]:
                axis.axvline(start, color=INK, linewidth=0.6, linestyle=":")
        axis.set_title(label)
        axis.set_yscale("log")
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
        axis.set_xlabel("step")
        axis.set_ylabel("loss")
    if len(names) > 1:
        handles = {
            label: handle
            for axis in axes
            for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
        }
        figure.legend(
            [handles[task] for task in names], names, loc="outside lower center", ncols=min(len(names), 5)
        )
    return figure
