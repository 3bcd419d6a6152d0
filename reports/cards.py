"""A card a method: what it was configured with, what it cost to train, and all that went wrong."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reports.outcomes import labels
from results.frame import Frame


@dataclass(frozen=True)
class Card:
    """What a reader asks about one method.

    Attributes:
        facts: (name, value) pairs.
        troubles: Skipped and failed cells with their reasons, and warnings.
        cells: Ids of its cells.
    """

    label: str
    facts: Sequence[tuple[str, str]]
    troubles: Sequence[str]
    cells: Sequence[str]


def cards(frame: Frame) -> list[Card]:
    """Draw a card for every method, in the order of the main table."""
    groups = dict(tuple(frame.cells.groupby("label")))
    return [
        _card(label, groups[label], frame.latency[frame.latency["label"] == label]) for label in labels(frame)
    ]


def _card(label: str, cells: pd.DataFrame, timings: pd.DataFrame) -> Card:
    done = cells[cells["status"] == "done"]
    facts = [
        ("method", ", ".join(sorted(cells["method"].unique()))),
        ("paper", ", ".join(sorted(set(cells["paper"]) - {""})) or "none"),
        ("configuration", _settings(cells["config"])),
        ("budget", _settings(cells["budget"])),
        ("tasks", ", ".join(sorted(cells["task"].unique()))),
        ("seeds", ", ".join(str(seed) for seed in sorted(cells["seed"].unique()))),
        (
            "cells",
            ", ".join(
                f"{count} {status}" for status, count in cells["status"].value_counts(sort=False).items()
            ),
        ),
        ("rows", "; ".join(sorted(set(cells["rows"]) - {""})) or "none"),
        ("precision", ", ".join(sorted(cells["precision"].unique()))),
    ]
    if done["training_seconds"].notna().any():
        facts += [
            ("steps", _span(done["steps"], "{:.0f}")),
            ("examples seen", _span(done["examples"], "{:.0f}")),
            ("peak learning rate", _span(done["learning_rate"], "{:g}")),
            ("training time of one cell", _span(done["training_seconds"], "{:.0f} s")),
            ("peak memory of training", _span(done["training_peak_memory_bytes"] / 2**20, "{:.0f} MiB")),
        ]
    return Card(
        label,
        facts,
        [*_unfinished(cells, ""), *_unfinished(timings, "timing "), *_warnings(cells, timings)],
        list(cells["cell_id"]),
    )


def _settings(documents: pd.Series) -> str:
    distinct = [json.loads(text) for text in dict.fromkeys(documents)]
    shown = [
        ", ".join(f"{key}={_value(value)}" for key, value in document.items()) or "none"
        for document in distinct
    ]
    return " | ".join(shown)


def _value(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _span(values: pd.Series, form: str) -> str:
    known = values.dropna()
    shown = list(dict.fromkeys(form.format(value) for value in (known.min(), known.max())))
    return " to ".join(shown)


def _unfinished(rows: pd.DataFrame, kind: str) -> list[str]:
    return [
        f"{kind}{row['status']} on {row['task']}, seed {row['seed']}: {row['reason']}"
        for _, row in rows[rows["status"] != "done"].iterrows()
    ]


def _warnings(cells: pd.DataFrame, timings: pd.DataFrame) -> list[str]:
    lines = (line for text in [*cells["warnings"], *timings["warnings"]] for line in text.split("\n") if line)
    return [f"warning: {line}" for line in dict.fromkeys(lines)]
