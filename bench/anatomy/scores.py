"""What is lost without an expert: a paired interval by resampling rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench import metrics
from bench.evaluation import row_scores
from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

    from bench.encoded import Encoded
    from bench.tasks.arrays import Logits

RESAMPLES = 1000
INTERVAL = (0.025, 0.975)

Scored = Callable[[NDArray[Any]], float]  # from row numbers, repeats allowed, to the score on them


@dataclass(frozen=True)
class Drop:
    """How much a score fell, with the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def score_name(task: Task) -> str:
    """Name the score that drops: the main one, but for extractive QA F1 where the main one is no mean over rows."""
    plain = task.head != "extractive-qa" or task.main_score in {"exact_match", "f1"}
    return task.main_score if plain else "f1"


def scored(task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> Scored:
    """Return the score as a function of row numbers."""
    name = score_name(task)
    if isinstance(logits, tuple):
        values = row_scores(task, rows, encoded, logits)[name]
        return lambda chosen: float(values[chosen].mean())
    labels = encoded.targets("labels")
    assert labels is not None
    predictions = logits[:, 0] if task.head == "regression" else logits.argmax(axis=1)
    metric = getattr(metrics, name)
    return lambda chosen: float(metric(predictions[chosen], labels[chosen]))


def drops(whole: Scored, without: dict[tuple[int, int], Scored], rows: int) -> dict[tuple[int, int], Drop]:
    """Return how far the score falls without each expert; one set of resampled rows serves all.

    Args:
        whole: Score of the model as it is.
        without: (layer, expert) -> score without it.
        rows: Number of rows.
    """
    drawn = np.random.default_rng([0, rows]).integers(0, rows, (RESAMPLES, rows))
    every = np.arange(rows)
    baseline = np.array([whole(chosen) for chosen in drawn])
    found = {}
    for expert, score in without.items():
        resampled = baseline - np.array([score(chosen) for chosen in drawn])
        low, high = np.quantile(resampled, INTERVAL)
        found[expert] = Drop(whole(every) - score(every), float(low), float(high))
    return found
