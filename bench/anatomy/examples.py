"""Sentences that an expert serves most of, for whoever holds the data; no record and no report has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

EXAMPLES = 3


def examples_markdown(title: str, task: Task, rows: Dataset, visits: NDArray[np.int64]) -> str:
    """List the rows of which an expert serves the largest share, for each layer and expert.

    Args:
        title: First line.
        task: Names the text columns and the labels.
        rows: The rows that were read.
        visits: ``[rows, layers, experts]``, tokens.
    """
    shares = visits / visits.sum(axis=2, keepdims=True).clip(min=1)
    _, layers, experts = visits.shape
    parts = [f"# {title}", "Rows of the data set: they stay on this machine unless you take them elsewhere."]
    for layer in range(layers):
        parts.append(f"## Layer {layer + 1}")
        for expert in range(experts):
            share = shares[:, layer, expert]
            best = np.argsort(-share, kind="stable")[:EXAMPLES]
            lines = [f"- {share[row]:.0%}{_label(task, rows, row)}: {_text(task, rows, row)}" for row in best]
            parts += [f"### Expert {expert + 1}", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _text(task: Task, rows: Dataset, row: np.int64) -> str:
    return " | ".join(" ".join(str(rows[int(row)][name]).split()) for name in task.text)


def _label(task: Task, rows: Dataset, row: np.int64) -> str:
    if task.head == "extractive-qa":
        return ""
    value = rows[int(row)][task.label]
    return f", {task.labels[value] if task.labels else value}"
