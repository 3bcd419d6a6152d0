"""What is lost without an expert: a paired interval by resampling rows, and a paired test by swapping them."""

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
SWAPS = 4999  # p goes down to 1 / 5000, small enough to be corrected over hundreds of experts
ENOUGH = 50  # swaps that tell as much settle that there is nothing to tell


@dataclass(frozen=True)
class Scored:
    """What a model answers to each row, and the score of answers.

    Attributes:
        answers: ``[rows]``.
        score: Takes answers and the numbers of their rows.
    """

    answers: NDArray[Any]
    score: Callable[[NDArray[Any], NDArray[Any]], float]

    def __call__(self, rows: NDArray[Any]) -> float:
        """Return the score on rows; repeats are allowed."""
        return self.score(self.answers[rows], rows)


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
    """Return a model's answers and their score; those of a span head are each row's score already."""
    name = score_name(task)
    if isinstance(logits, tuple):
        return Scored(row_scores(task, rows, encoded, logits)[name], lambda values, _: float(values.mean()))
    labels = encoded.targets("labels")
    assert labels is not None
    predictions = logits[:, 0] if task.head == "regression" else logits.argmax(axis=1)
    metric = getattr(metrics, name)
    return Scored(predictions, lambda answers, chosen: float(metric(answers, labels[chosen])))


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


def swap_p_value(whole: Scored, without: Scored) -> float:
    """Return the p-value of a paired randomisation test, two-sided: do the two models score differently?

    Were they alike, which answer of a row is whose would be chance. So answers are swapped in half of the rows, drawn
    anew each time, and p is the share of swaps, the real one counted, in which the scores differ as much. It stops
    early once that is plain (Besag and Clifford, 1991); such p-values are as valid.
    """
    every = np.arange(len(whole.answers))
    differing = np.flatnonzero(whole.answers != without.answers)
    if not len(differing):
        return 1.0
    found = abs(whole(every) - without(every)) - 1e-12
    generator = np.random.default_rng([1, len(every)])
    as_much = 0
    for draw in range(1, SWAPS + 1):
        swapped = differing[generator.random(len(differing)) < 0.5]
        one, other = whole.answers.copy(), without.answers.copy()
        one[swapped], other[swapped] = without.answers[swapped], whole.answers[swapped]
        as_much += abs(whole.score(one, every) - whole.score(other, every)) >= found
        if as_much == ENOUGH:
            return ENOUGH / draw
    return (as_much + 1) / (SWAPS + 1)
