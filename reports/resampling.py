"""Scores of many resamples at once: each score as a function of how often every row was drawn.

A bootstrap resample of rows is a vector of counts, so one matrix product scores a thousand resamples. The same counts
serve all methods and seeds of a task: that is what makes the bootstrap paired.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
_CHUNK = 2_000_000  # counts held at once

Array = NDArray[np.float64]


def draws(rows: int, *, resamples: int = RESAMPLES, seed: int = 0) -> Iterator[Array]:
    """Yield blocks of counts ``[resamples of the block, rows]``; the same for the same number of rows."""
    random = np.random.default_rng([seed, rows])
    block = max(1, _CHUNK // rows)
    for start in range(0, resamples, block):
        chosen = random.integers(0, rows, (min(block, resamples - start), rows))
        chosen += rows * np.arange(len(chosen))[:, None]
        counts = np.bincount(chosen.ravel(), minlength=chosen.size)
        yield counts.reshape(chosen.shape).astype(np.float64)


def f1(predicted: NDArray[Any], actual: NDArray[Any], counts: Array) -> Array:
    """Return the F1 of class 1 in each resample; 0 where it is neither predicted nor there."""
    hits = counts @ ((predicted == 1) & (actual == 1)).astype(float)
    marked = counts @ ((predicted == 1).astype(float) + (actual == 1))
    return _ratio(2 * hits, marked)


def matthews(predicted: NDArray[Any], actual: NDArray[Any], counts: Array) -> Array:
    """Return Matthews' correlation in each resample, for any number of classes (Gorodkin 2004, equation 8)."""
    classes = np.union1d(predicted, actual)
    said = counts @ (predicted[:, None] == classes).astype(float)
    true = counts @ (actual[:, None] == classes).astype(float)
    total = counts.sum(axis=1)
    covariance = total * (counts @ (predicted == actual).astype(float)) - (said * true).sum(axis=1)
    spread = (total**2 - (said**2).sum(axis=1)) * (total**2 - (true**2).sum(axis=1))
    return _ratio(covariance, np.sqrt(spread))


def pearson(predicted: Array, actual: Array, counts: Array) -> Array:
    """Return the linear correlation in each resample."""
    return _correlation(
        np.broadcast_to(predicted, counts.shape), np.broadcast_to(actual, counts.shape), counts
    )


def spearman(predicted: Array, actual: Array, counts: Array) -> Array:
    """Return the rank correlation in each resample, ranks taken anew with ties at their mean."""
    return _correlation(_ranks(predicted, counts), _ranks(actual, counts), counts)


SCORES: dict[str, Callable[[NDArray[Any], NDArray[Any], Array], Array]] = {
    "f1": f1,
    "matthews": matthews,
    "pearson": pearson,
    "spearman": spearman,
}


def _correlation(one: Array, other: Array, counts: Array) -> Array:
    total = counts.sum(axis=1, keepdims=True)
    one = one - (counts * one).sum(axis=1, keepdims=True) / total
    other = other - (counts * other).sum(axis=1, keepdims=True) / total
    covariance = (counts * one * other).sum(axis=1)
    spread = np.sqrt((counts * one**2).sum(axis=1) * (counts * other**2).sum(axis=1))
    return _ratio(covariance, spread)


def _ratio(above: Array, below: Array) -> Array:
    """Divide; 0 where there is nothing to divide by, as the scores define it."""
    found: Array = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return found


def _ranks(values: Array, counts: Array) -> Array:
    """Return mean ranks of the rows in each resample: the order never changes, only how many stand before."""
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    members = np.take(counts, np.argsort(group, kind="stable"), axis=1)
    if len(sizes) < len(values):  # ties
        members = np.add.reduceat(members, np.cumsum(sizes) - sizes, axis=1)
    ranks: Array = np.take(np.cumsum(members, axis=1) - (members - 1) / 2, group, axis=1)
    return ranks
