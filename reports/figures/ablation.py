"""One knob at a time: the score as a single knob of a method moves and all others stay."""

from __future__ import annotations

import json
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from reports.figures.style import COLOURS, MARKERS, legend_below, panels
from reports.outcomes import outcomes, tasks
from reports.statistics import mean_interval
from reports.tables.ablation import variants
from results.frame import Frame


@dataclass(frozen=True)
class Sweep:
    """Variants of a method that differ in one knob alone, in the order of its values."""

    method: str
    knob: str
    values: tuple[Any, ...]
    labels: tuple[str, ...]


def sweeps(frame: Frame) -> list[Sweep]:
    """Return, for each knob of each method, the largest set of variants in which only that knob moves."""
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
            largest = max(groups.values(), key=len)
            if len(largest) > 1:
                ordered = sorted(largest.items(), key=lambda item: _order(item[1]))
                found.append(
                    Sweep(method, knob, tuple(v for _, v in ordered), tuple(label for label, _ in ordered))
                )
    return found


def draw(frame: Frame) -> Figure | None:
    """Draw a panel a sweep, the scores of each task in it, joined where the knob is a number; None without a sweep."""
    found = sweeps(frame)
    if not found:
        return None
    swept = {label for sweep in found for label in sweep.labels}
    names = [task for task in tasks(frame) if any(outcomes(frame, task)[label].scores for label in swept)]
    figure, axes = panels(len(found), height=2.1)
    for axis, sweep in zip(axes, found, strict=True):
        for number, task in enumerate(names):
            scored = outcomes(frame, task)
            places = [place for place, label in enumerate(sweep.labels) if scored[label].scores]
            means = [
                mean_interval([100 * v for v in scored[sweep.labels[place]].scores.values()])
                for place in places
            ]
            style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
            joined = "-" if all(isinstance(value, int | float) for value in sweep.values) else ""
            axis.plot(places, [one.mean for one in means], label=task, linestyle=joined, **style)
            spread = [(place, one) for place, one in zip(places, means, strict=True) if one.low is not None]
            axis.vlines([place for place, _ in spread], [one.low for _, one in spread],
                        [one.high for _, one in spread], color=style["color"], linewidth=0.8)  # fmt: skip
        axis.set_xticks(range(len(sweep.values)), [_tick(value) for value in sweep.values])
        axis.set_xlabel(sweep.knob)
        axis.set_ylabel("main score × 100")
        axis.set_title(sweep.method)
    if len(names) > 1:
        legend_below(figure, *axes[0].get_legend_handles_labels())
    return figure


def _tick(value: Any) -> str:
    """Break a name at its hyphens: side by side, names run into each other."""
    return value.replace("-", "-\n") if isinstance(value, str) else str(value)


def _order(value: Any) -> tuple[bool, float, str]:
    """Numbers first, by size; then all else by its text."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return not is_number, float(value) if is_number else 0.0, str(value)
