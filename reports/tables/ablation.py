"""Variants of one method side by side: the knobs that differ, and what they do."""

from __future__ import annotations

import json
from typing import Any

from reports import captions
from reports.columns import average_column, score_columns, size, speedup_column
from reports.entries import DASH, Entry, Table
from reports.outcomes import labels
from results.frame import Frame


def ablation_tables(frame: Frame) -> list[Table]:
    """Draw a table for each method that was run with several configurations."""
    drawn = []
    for method in sorted(frame.cells["method"].unique()):
        configs = variants(frame, method)
        if len(configs) > 1:
            drawn.append(_table(frame, method, configs))
    return drawn


def variants(frame: Frame, method: str) -> dict[str, dict[str, Any]]:
    """Return the knobs by which the variants of a method differ: label -> knob -> value, None where it has none."""
    cells = frame.cells[frame.cells["method"] == method].drop_duplicates("label")
    configs = {label: json.loads(text) for label, text in zip(cells["label"], cells["config"], strict=True)}
    knobs = sorted({knob for config in configs.values() for knob in config})
    differing = [
        knob for knob in knobs if len({json.dumps(config.get(knob)) for config in configs.values()}) > 1
    ]
    return {
        label: {knob: configs[label].get(knob) for knob in differing}
        for label in labels(frame)
        if label in configs
    }


def _table(frame: Frame, method: str, configs: dict[str, dict[str, Any]]) -> Table:
    knobs = list(next(iter(configs.values())))
    columns = [
        *score_columns(frame),
        *average_column(frame),
        *speedup_column(frame),
        *size("effective_encoder_parameters", "effective encoder parameters (M)", 1e6)(frame),
    ]
    rows = tuple(
        (
            Entry(label),
            *(_knob(config[knob]) for knob in knobs),
            *(column.entries[label] for column in columns),
        )
        for label, config in configs.items()
    )
    return Table(
        name=f"ablation-{_stem(method)}",
        title=f"Variants of {method}",
        headings=("variant", *knobs, *(column.heading for column in columns)),
        rows=rows,
        caption=(*captions.conditions(frame), captions.SCORES, "Only the knobs that differ are shown."),
        column_tasks=("", *("" for _ in knobs), *(column.task for column in columns)),
    )


def _knob(value: Any) -> Entry:
    if value is None:
        return Entry(DASH)
    return Entry(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _stem(name: str) -> str:
    """Return a file name that any system takes."""
    return "".join(sign if sign.isascii() and sign.isalnum() else "-" for sign in name) or "-"
