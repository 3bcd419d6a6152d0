"""Layers by experts: load, movement, likeness to siblings, and what an expert's absence costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.figure import Figure
from numpy.typing import NDArray

from reports.anatomies import (
    Anatomy,
    Place,
    anatomies,
    beyond_chance,
    first_seeds,
    missed,
    strongest_lift,
    with_siblings,
)
from reports.figures.style import panels
from results.anatomy import Measures
from results.frame import Frame

MODELS = 4  # shown in one figure
ACROSS = 3  # panels in a row
NUMBERS = 8  # experts up to which every square has its number

Value = Callable[[Measures, int, int], float | None]


@dataclass(frozen=True)
class _Panel:
    """One measure of every expert.

    Attributes:
        title: What it is.
        value: Of (layer, expert).
        form: How a number is written.
        colours: Name of the map; a diverging one has 0 in its middle.
        flagged: Which experts get a dot, as (layer, expert).
    """

    title: str
    value: Value
    form: str
    colours: str = "cividis"
    flagged: Callable[[Measures], set[Place]] = lambda _found: set()


def draw(frame: Frame) -> Figure | None:
    """Draw each model in rows of its own, first seeds only; None where nothing was measured."""
    shown = first_seeds(anatomies(frame))[:MODELS]
    measured = [panel for panel in _PANELS if any(_has(one.measures, panel) for one in shown)]
    if not measured:
        return None
    most = max(len(one.measures.load.share) for one in shown)
    across = min(ACROSS, len(measured))
    slots = -(-len(measured) // across) * across
    figure, axes = panels(slots * len(shown), height=0.75 + 0.19 * most, columns=across)
    for number, one in enumerate(shown):
        own = axes[number * slots : (number + 1) * slots]
        for place, (axis, panel) in enumerate(zip_longest(own, measured)):
            if panel is None or not _has(one.measures, panel):
                axis.remove()
                continue
            _squares(axis, one, panel)
            named = len(shown) > 1 and place < across
            axis.set_title(f"\n{panel.title}" if named else panel.title)
            axis.set_xlabel("expert")
            axis.set_ylabel("layer")
        if len(shown) > 1:
            _name_row(own[0], f"{one.label}, {one.task}")
    return figure


def _name_row(axis: Any, name: str) -> None:
    """Write a name above a row of panels, from the first one on, in the line that their titles left free."""
    size, pad = rcParams["axes.titlesize"], rcParams["axes.titlepad"]
    text = axis.annotate(f"{name}\n", (0, 1), (0, pad), xycoords="axes fraction", textcoords="offset points",
                         va="baseline", fontsize=size, fontweight="bold")  # fmt: skip
    text.set_in_layout(False)  # or its length would push the panels apart


def _lift(found: Measures, layer: int, expert: int) -> float | None:
    lift = strongest_lift(found, layer, expert)
    return None if lift is None else lift.value


def _distance(found: Measures, layer: int, expert: int) -> float | None:
    distances = found.weights.initial_distance
    value = distances[layer][expert] if distances else None
    return None if value is None else 100 * value


def _drop(found: Measures, layer: int, expert: int) -> float | None:
    value = found.replacement.drop[layer][expert] if found.replacement else None
    return None if value is None else 100 * value


def _changed(found: Measures, layer: int, expert: int) -> float | None:
    changed = found.replacement.changed if found.replacement else None
    value = changed[layer][expert] if changed else None
    return None if value is None else 100 * value


_PANELS = (
    _Panel("load (% of tokens)", lambda found, layer, expert: 100 * (found.load.share[layer][expert] or 0), "{:.0f}"),
    _Panel("distance from the start (%)", _distance, "{:.1f}"),
    _Panel("CKA with siblings", lambda found, layer, expert: with_siblings(found.outputs.cka, layer, expert), "{:.2f}"),
    _Panel("lift of its label", _lift, "{:.2f}", flagged=beyond_chance),
    _Panel("drop when replaced (points)", _drop, "{:+.1f}", "RdBu_r", flagged=missed),
    _Panel("other predictions (%)", _changed, "{:.1f}"),
)  # fmt: skip


def _has(found: Measures, panel: _Panel) -> bool:
    return bool(np.isfinite(_grid(found, panel.value)).any())


def _grid(found: Measures, value: Value) -> NDArray[np.float64]:
    share = found.load.share
    rows: Iterable[list[float | None]] = (
        [value(found, layer, expert) for expert in range(len(share[layer]))] for layer in range(len(share))
    )
    return np.array([[np.nan if one is None else one for one in row] for row in rows], dtype=float)


def _squares(axis: Any, one: Anatomy, panel: _Panel) -> None:
    values = _grid(one.measures, panel.value)
    layers, experts = values.shape
    masked = np.ma.masked_invalid(values)
    low, high = _ends(values, diverging=panel.colours != "cividis")
    mesh = axis.pcolormesh(masked, cmap=panel.colours, vmin=low, vmax=high, edgecolors="face", linewidth=0.3)
    axis.set_ylim(layers, 0)
    axis.set_yticks(np.arange(layers) + 0.5, [str(layer + 1) for layer in range(layers)])
    step = -(-experts // NUMBERS)
    axis.set_xticks(np.arange(0, experts, step) + 0.5, [str(n + 1) for n in range(0, experts, step)])
    axis.grid(visible=False)
    axis.spines[:].set_visible(False)
    axis.tick_params(length=0)
    flagged = panel.flagged(one.measures)
    for (layer, expert), value in np.ndenumerate(values):
        if experts > NUMBERS:
            continue
        if not np.isfinite(value):
            axis.text(expert + 0.5, layer + 0.5, "—", ha="center", va="center", fontsize=6)
            continue
        light = np.dot(mesh.to_rgba(value)[:3], (0.299, 0.587, 0.114)) > 0.5
        colour = "black" if light else "#fefefe"
        text = panel.form.format(value).replace("-", "−")
        axis.text(expert + 0.5, layer + 0.5, text, ha="center", va="center", fontsize=6, color=colour)
        if (layer, expert) in flagged:
            axis.plot(expert + 0.9, layer + 0.18, marker="o", markersize=2.5, color="white",
                      markeredgecolor="black", markeredgewidth=0.5)  # fmt: skip


def _ends(values: NDArray[np.float64], *, diverging: bool) -> tuple[float, float]:
    if diverging:
        most = max(float(np.nanmax(np.abs(values))), 1e-9)
        return -most, most
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    return (low, high) if high > low else (low - 0.5, high + 0.5)
