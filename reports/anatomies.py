"""The anatomies of a frame, and what several of its drawings ask of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import TypeVar

from reports.paired import mcnemar
from reports.statistics import holm
from results.anatomy import BySibling, Measures
from results.frame import Frame

LEVEL = 0.05

Place = tuple[int, int]  # layer, expert
Value = TypeVar("Value", int, float)


@dataclass(frozen=True)
class Anatomy:
    """What the experts of one cell learned."""

    task: str
    label: str
    seed: int
    cell_id: str
    measures: Measures

    @property
    def title(self) -> str:
        """What a person calls it."""
        return f"{self.label} on {self.task}, seed {self.seed}"


@dataclass(frozen=True)
class Lift:
    """How much commoner a label is among an expert's tokens than among all, and the middle 95 % of chance."""

    label: str
    value: float
    low: float
    high: float

    @property
    def surprise(self) -> float:
        """Return how far it lies from the middle of chance, in widths of chance."""
        return abs(self.value - (self.low + self.high) / 2) / max(self.high - self.low, 1e-9)


def anatomies(frame: Frame) -> list[Anatomy]:
    """Return the anatomies of a frame by task, method and seed."""
    columns = [frame.anatomy[name] for name in ("task", "label", "seed", "cell_id", "measures")]
    found = [
        Anatomy(str(task), str(label), int(seed), str(cell_id), Measures.model_validate(measures))
        for task, label, seed, cell_id, measures in zip(*columns, strict=True)
    ]
    return sorted(found, key=lambda one: (one.task, one.label, one.seed, one.cell_id))


def first_seeds(found: list[Anatomy]) -> list[Anatomy]:
    """Keep the first seed of each task and method: what is shown expert by expert."""
    return list({(one.task, one.label): one for one in reversed(found)}.values())[::-1]


def among_siblings(values: BySibling, layer: int) -> list[float]:
    """Return the values of each two experts of a layer."""
    matrix = values[layer]
    pairs = ((a, b) for a in range(len(matrix)) for b in range(a))
    return [value for a, b in pairs if (value := matrix[a][b]) is not None]


def with_siblings(values: BySibling, layer: int, expert: int) -> float | None:
    """Return the mean value of an expert with each other of its layer."""
    row = values[layer][expert]
    known = [value for other, value in enumerate(row) if other != expert and value is not None]
    return fmean(known) if known else None


def label_p_values(measures: Measures) -> list[float]:
    """Return the p-value of each layer's association with labels, corrected over the layers."""
    if measures.labels is None:
        return []
    corrected = holm(dict(enumerate(measures.labels.p_value)))
    return [corrected[layer] for layer in range(len(corrected))]


def strongest_lift(measures: Measures, layer: int, expert: int) -> Lift | None:
    """Return the lift of the label that lies farthest from chance; None without labels or tokens."""
    labels = measures.labels
    if labels is None:
        return None
    columns = (table[layer][expert] for table in (labels.lift, labels.chance_low, labels.chance_high))
    lifts = [
        Lift(label, value, low, high)
        for label, value, low, high in zip(labels.names, *columns, strict=True)
        if value is not None and low is not None and high is not None
    ]
    return max(lifts, key=lambda lift: lift.surprise, default=None)


def beyond_chance(measures: Measures) -> set[Place]:
    """Return each (layer, expert) whose strongest lift chance does not give.

    The layer's corrected p-value must be small too: of twenty experts one has such a lift by chance.
    """
    sure = {layer for layer, p_value in enumerate(label_p_values(measures)) if p_value < LEVEL}
    return {
        (layer, expert)
        for layer in sure
        for expert in range(len(measures.load.share[layer]))
        if (lift := strongest_lift(measures, layer, expert)) and not lift.low <= lift.value <= lift.high
    }


def replacement_p_values(measures: Measures) -> dict[Place, float]:
    """Return by (layer, expert) the p-value of its replacement, corrected over all experts.

    With classes McNemar's of right and wrong answers, without the recorded one of a paired randomisation test; nothing
    where neither is there.
    """
    replacement = measures.replacement
    if replacement is None:
        return {}
    if replacement.lost is not None and replacement.gained is not None:
        pairs = _by_place(replacement.lost), _by_place(replacement.gained)
        return holm({place: mcnemar(lost, pairs[1][place]) for place, lost in pairs[0].items()})
    return holm(_by_place(replacement.p_value or []))


def missed(measures: Measures) -> set[Place]:
    """Return each (layer, expert) whose replacement costs something that is not noise, by its corrected p-value."""
    if measures.replacement is None:
        return set()
    drops = _by_place(measures.replacement.drop)
    return {
        place
        for place, p_value in replacement_p_values(measures).items()
        if p_value < LEVEL and drops.get(place, 0) > 0
    }


def _by_place(table: Sequence[Sequence[Value | None]]) -> dict[Place, Value]:
    """Return the values of a table by (layer, expert)."""
    return {
        (layer, expert): value
        for layer, row in enumerate(table)
        for expert, value in enumerate(row)
        if value is not None
    }
