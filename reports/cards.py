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
        _card(label, groups[label], _of(frame.tries, label), _of(frame.latency, label))
        for label in labels(frame)
    ]


def _of(table: pd.DataFrame, label: str) -> pd.DataFrame:
    return table[table["label"] == label]


def _card(label: str, cells: pd.DataFrame, tries: pd.DataFrame, timings: pd.DataFrame) -> Card:
    done = cells[cells["status"] == "done"]
    facts = [
        ("method", ", ".join(sorted(cells["method"].unique()))),
        ("paper", ", ".join(sorted(set(cells["paper"]) - {""})) or "none"),
        ("configuration", _settings(cells["config"])),
        ("budget", _settings(cells["budget"])),
        *_tuning(tries),
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


def _tuning(tries: pd.DataFrame) -> list[tuple[str, str]]:
    """Say how much tuning the method had, and what came of each try."""
    facts = []
    for task, group in tries.groupby("task", sort=False):
        first = group.iloc[0]
        bound = "" if pd.isna(first["max_steps"]) else f", at most {first['max_steps']:.0f} steps each"
        budget = f"{len(group)} of {first['allowed']} tries, {first['combinations']} combinations in the grid{bound}"
        measure = f"{first['score']} on rows held out from train: {first['rows']}"
        facts.append((f"tuning on {task}", f"{budget}; {measure}"))
        facts += [(f"try {one['number']} on {task}", _outcome(one)) for _, one in group.iterrows()]
    return facts


def _outcome(one: pd.Series) -> str:
    knobs = _settings(pd.Series([one["knobs"]])).replace("none", "the matrix's own knobs")
    if one["status"] != "done":
        return f"{knobs}: {one['status']}, {one['reason']}"
    won = ", chosen" if one["won"] else ""
    return f"{knobs}: {one['score']} {one['value']:.4f} after {one['steps']} steps{won}"


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
