"""Every timing: one block for each set of conditions, since no two of them share a column."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd

from reports import captions
from reports.entries import Entry, Group, Table, linked, quantity
from reports.outcomes import labels
from reports.timings import Setting, settings, speedup_entry, timings
from results.frame import Frame

HEADINGS = (
    "method",
    "p50 (ms)",
    "p90 (ms)",
    "p99 (ms)",
    "teacher p50 (ms)",
    "speed-up",
    "throughput (1/s)",
    "peak memory (MB)",
    "energy of a call (mJ)",
)
TIMES = (
    "Times are of one call (one batch), the geometric mean over tasks and seeds; the teacher's are those of the same "
    "processes. Throughput counts sequences."
)


def latency_tables(frame: Frame) -> list[Table]:
    """Draw the grid of runtimes and workloads; nothing where nothing was timed."""
    rows: list[tuple[Entry, ...]] = []
    groups: dict[int, Group] = {}
    for setting in settings(frame):
        groups[len(rows)] = Group(setting.describe())
        rows += _rows(frame, setting)
    if not rows:
        return []
    measured = [
        place
        for place in range(len(HEADINGS))
        if place < 7 or any(row[place].value is not None for row in rows)
    ]
    headings = tuple(HEADINGS[place] for place in measured)
    kept = tuple(tuple(row[place] for place in measured) for row in rows)
    notes = (
        *captions.conditions(frame),
        captions.SPEEDUP,
        TIMES,
    )
    return [Table("latency", "Latency", headings, kept, notes, groups)]


def _rows(frame: Frame, setting: Setting) -> list[tuple[Entry, ...]]:
    by_label = dict(tuple(timings(frame, setting).groupby("label")))
    return [_row(frame, setting, label, by_label[label]) for label in labels(frame) if label in by_label]


def _row(frame: Frame, setting: Setting, label: str, timed: pd.DataFrame) -> tuple[Entry, ...]:
    done = timed[timed["status"] == "done"]

    def pooled(
        column: str, unit: float = 1.0, pool: Callable[[Sequence[float]], float] = _geometric
    ) -> Entry:
        known = done[column].dropna()
        return quantity([pool(list(known))] if len(known) else [], unit=unit)

    row = (
        Entry(label),
        *(pooled(column) for column in ("p50_ms", "p90_ms", "p99_ms", "baseline_p50_ms")),
        speedup_entry(frame, setting, label, in_full=True),
        pooled("throughput_per_s"),
        pooled("peak_memory_bytes", 1e6, max),
        pooled("energy_mj"),
    )
    return linked(row, done["latency_id"])


def _geometric(values: Sequence[float]) -> float:
    return float(np.exp(np.log(values).mean()))
