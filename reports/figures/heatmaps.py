"""Numbers on colours: the retained score of each task, and the speed-up over batch and length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports.figures.style import PAGE_WIDTH, figure_of, heading, panels, short
from reports.outcomes import labels, tasks, teacher_label
from reports.tables.comparison import retained
from results.frame import Frame

GRIDS = 12  # panels of one figure
LAUNCH_BOUND = 1.25  # the next larger input takes less than this many times as long
SLANTED = 16  # letters of a task's name that may be written aslant
TITLE = 30  # letters above a panel
_MAP = "cividis"  # as readable in grey as in colour


def draw_retained(frame: Frame) -> Figure | None:
    """Draw the share of the teacher's score that each method keeps on each task; None without a teacher."""
    names = tasks(frame)
    students = [label for label in labels(frame) if label != teacher_label(frame)]
    kept = {task: retained(frame, task) for task in names}
    values = np.array(
        [
            [100 * kept[task][label].mean if label in kept[task] else np.nan for task in names]
            for label in students
        ]
    )
    if not np.isfinite(values).any():
        return None
    columns = [name.replace(" [", "\n[").replace(", ", ",\n") for name in names]
    longest = max(len(line) for column in columns for line in column.split("\n"))
    below = 0.055 * longest if longest > SLANTED else 0.0  # inches that upright names take below the squares
    beside = max(2.2, 0.4 + 0.06 * max(len(short(label)) for label in students))
    figure, axis = figure_of(min(PAGE_WIDTH, beside + 0.62 * len(names)), 0.9 + 0.24 * len(students) + below)
    high = max(100.0, float(np.nanmax(values)))
    low = min(float(np.nanmin(values)), high - 1)  # where all keep everything, none is dark
    _numbers(axis, values, "{:.1f}", low=low, high=high)
    _ticks(axis, [short(label) for label in students], columns)
    if len(names) > 1:
        axis.tick_params(axis="x", rotation=90 if below else 45)
    return figure


def draw_speedups(frame: Frame) -> Figure | None:
    """Draw the speed-up over batch and length, a panel a method and runtime; None where no grid was timed."""
    grids = _grids(frame)
    if not grids:
        return None
    high = max(float(np.nanmax(grid.speedups)) for grid in grids)
    figure, axes = panels(len(grids), height=0.9 + 0.3 * max(len(grid.batches) for grid in grids))
    for axis, grid in zip(axes, grids, strict=True):
        _numbers(axis, grid.speedups, "{:.2f}", low=min(1.0, float(np.nanmin(grid.speedups))), high=high)
        _ticks(axis, [str(size) for size in grid.batches], [str(length) for length in grid.lengths])
        for row, column in np.argwhere(grid.launch_bound):
            axis.plot(column + 0.38, row - 0.32, marker="o", markersize=2.5, color="white", markeredgecolor="black",
                      markeredgewidth=0.5)  # fmt: skip
        axis.set_title(grid.title)
        axis.set_ylabel("batch")
        axis.set_xlabel("tokens")
    return figure


@dataclass(frozen=True)
class _Grid:
    """The timings of one method under one runtime over batch and length, the seeds and tasks pooled."""

    title: str
    batches: list[int]
    lengths: list[int]
    speedups: NDArray[np.float64]
    launch_bound: NDArray[np.bool_]


def _grid(title: str, timed: pd.DataFrame) -> _Grid:
    def pooled(column: str) -> pd.DataFrame:
        logs = timed.assign(log=np.log(timed[column].astype(float)))
        return logs.pivot_table(index="batch_size", columns="length", values="log").map(np.exp)

    speedups = pooled("speedup")
    return _Grid(
        title=title,
        batches=[int(size) for size in speedups.index],
        lengths=[int(length) for length in speedups.columns],
        speedups=speedups.to_numpy(dtype=float),
        launch_bound=_flat(pooled("baseline_p50_ms").to_numpy(dtype=float)),
    )


def _grids(frame: Frame) -> list[_Grid]:
    """Return the largest grids first, those of the teacher against itself where there is room."""
    done = frame.latency[(frame.latency["status"] == "done") & frame.latency["length"].notna()]
    keys = ["environment", "device", "runtime", "dtype", "threads"]
    told = ["device", "runtime", *(["dtype"] if len(done["dtype"].unique()) > 1 else [])]
    order = {label: place for place, label in enumerate(labels(frame))}
    found = []
    for conditions, same in done.groupby(keys, sort=True):
        size = len(same[["batch_size", "length"]].drop_duplicates())
        if size < 2:
            continue
        for label, timed in same.groupby("label"):
            parts = heading(str(label)), ", ".join(str(timed[key].iloc[0]) for key in told)
            title = ", ".join(parts) if sum(map(len, parts)) < TITLE else "\n".join(parts)
            place = label == teacher_label(frame), -size, str(conditions), order[str(label)]
            found.append((place, title, timed))
    found.sort(key=lambda entry: entry[0])
    return [_grid(title, timed) for _, title, timed in found[:GRIDS]]


def _flat(times: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Mark where more work takes hardly more time: the teacher is bound by launches there, not by arithmetic."""
    marked = np.zeros(times.shape, dtype=bool)
    marked[:-1] |= times[1:] < LAUNCH_BOUND * times[:-1]
    marked[:, :-1] |= times[:, 1:] < LAUNCH_BOUND * times[:, :-1]
    return marked


def _numbers(axis: Any, values: NDArray[np.float64], form: str, *, low: float, high: float) -> None:
    rows, columns = (np.arange(size + 1) - 0.5 for size in values.shape)
    masked = np.ma.masked_invalid(values)
    mesh = axis.pcolormesh(
        columns, rows, masked, cmap=_MAP, vmin=low, vmax=high, edgecolors="face", linewidth=0.3
    )
    axis.set_ylim(rows[-1], rows[0])
    for (row, column), value in np.ndenumerate(values):
        if np.isfinite(value):
            light = np.dot(mesh.to_rgba(value)[:3], (0.299, 0.587, 0.114)) > 0.5
            axis.text(column, row, form.format(value), ha="center", va="center", fontsize=6.5,
                      color="black" if light else "#fefefe")  # fmt: skip
        else:
            axis.text(column, row, "—", ha="center", va="center", fontsize=6.5)


def _ticks(axis: Any, rows: Sequence[str], columns: Sequence[str]) -> None:
    axis.set_yticks(range(len(rows)), rows)
    axis.set_xticks(range(len(columns)), columns)
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
