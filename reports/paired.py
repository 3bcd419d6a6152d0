"""Is one method better than another on a task, or is it noise? Paired by row and by seed.

Scores vary because other rows might have been drawn and because other seeds might have been. Rows and seeds are
crossed (every seed sees the same rows), so the variance of the mean difference is that of rows plus that of seeds minus
what both count: the two-way random effects model, with Satterthwaite's degrees of freedom (Clark 1973; Satterthwaite
1946).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray
from scipy import special

from reports.resampling import RESAMPLES, draws
from reports.statistics import student_quantile

# Fewer seeds than this say so little about their own spread that it always counts against a claim.
FEW_SEEDS = 5

Array = NDArray[np.float64]
Weighted = Callable[[Array], Array]


@dataclass(frozen=True)
class Difference:
    """A difference of two methods' scores.

    Attributes:
        mean: Mean over seeds of (first minus second).
        low: Lower end of its 95 % interval.
        high: Upper end.
        p_value: Two-sided, of no difference.
        seeds: Seeds that both finished.
        rows: Rows that both answered.
    """

    mean: float
    low: float
    high: float
    p_value: float
    seeds: int
    rows: int


def mcnemar(first_alone: int, second_alone: int) -> float:
    """Test two checkpoints' right and wrong answers on the same rows.

    The exact binomial test on the discordant rows with the mid-p correction (Fagerland, Lydersen and Laake 2013), which
    keeps the level without the exact test's loss of power.

    Args:
        first_alone: Rows that only the first got right.
        second_alone: Rows that only the second got right.
    """
    discordant, fewer = first_alone + second_alone, min(first_alone, second_alone)
    if first_alone == second_alone:
        return 1.0
    up_to = float(special.bdtr(fewer, discordant, 0.5))
    below = float(special.bdtr(fewer - 1, discordant, 0.5)) if fewer else 0.0
    return min(1.0, up_to + below)


def compare_means(first: Array, second: Array) -> Difference:
    """Compare a score that is a mean over rows.

    With one seed and answers that are right or wrong this is McNemar's test; with several it is its extension to
    clusters, the variances in closed form.

    Args:
        first: Value of every row under every seed, ``[seeds, rows]``.
        second: The same of the other method.
    """
    by_row = first - second
    seeds, rows = by_row.shape
    covariance = np.atleast_2d(np.cov(by_row)) / rows if rows > 1 else np.zeros((seeds, seeds))
    found = crossed(by_row.mean(axis=1), covariance, rows)
    if seeds == 1 and np.isin(by_row, (-1.0, 0.0, 1.0)).all():
        p_value = mcnemar(int((by_row == 1).sum()), int((by_row == -1).sum()))
        found = Difference(found.mean, found.low, found.high, p_value, 1, rows)
    return found


def compare_resampled(
    first: Sequence[Weighted], second: Sequence[Weighted], rows: int, *, resamples: int = RESAMPLES
) -> Difference:
    """Compare a score that is no mean over rows (F1 of a class, correlations) by the paired bootstrap of rows.

    Args:
        first: For each seed, the score as a function of the counts ``[resamples, rows]``.
        second: The same of the other method, the seeds in the same order.
        rows: Number of rows.
        resamples: Of the rows; every seed and both methods are scored on the same ones.
    """
    found = resample([*first, *second], rows, resamples=resamples)
    return compare_draws(found[: len(first)], found[len(first) :], rows)


def resample(scores: Sequence[Weighted], rows: int, *, resamples: int = RESAMPLES) -> Array:
    """Score all rows and the same resamples of them by each of several functions, ``[function, 1 + resamples]``."""
    blocks = chain([np.ones((1, rows))], draws(rows, resamples=resamples))  # large: one after the other
    return np.concatenate([np.array([score(counts) for score in scores]) for counts in blocks], axis=1)


def compare_draws(first: Array, second: Array, rows: int) -> Difference:
    """Compare what ``resample`` found for one method with what it found for another, ``[seeds, 1 + resamples]``."""
    by_seed = first - second
    return crossed(by_seed[:, 0], np.atleast_2d(np.cov(by_seed[:, 1:])), rows)


def crossed(by_seed: Array, covariance: Array, rows: int) -> Difference:
    """Put the variance from rows and the variance from seeds together.

    Args:
        by_seed: Difference under each seed, ``[seeds]``.
        covariance: Of these differences over the choice of rows, ``[seeds, seeds]``.
        rows: Number of rows.
    """
    seeds = len(by_seed)
    mean = float(by_seed.mean())
    from_rows = float(covariance.sum()) / seeds**2
    parts = [(from_rows, rows - 1)]
    variance = from_rows
    if seeds > 1:
        own = float(np.trace(covariance)) / seeds
        shared = float(covariance.sum() - np.trace(covariance)) / (seeds * (seeds - 1))
        both = max(own - shared, 0.0) / seeds
        between = float(by_seed.var(ddof=1)) / seeds
        parts.append((both, (seeds - 1) * (rows - 1)))
        if between > both or seeds < FEW_SEEDS:
            parts.append((max(between, both), seeds - 1))
        variance += max(between - both, 0.0)
    if variance <= 0:
        return Difference(mean, mean, mean, 1.0 if mean == 0 else 0.0, seeds, rows)
    freedom = variance**2 / sum(part**2 / degrees for part, degrees in parts if degrees > 0)
    error = math.sqrt(variance)
    half = student_quantile(freedom) * error
    return Difference(
        mean, mean - half, mean + half, 2 * float(special.stdtr(freedom, -abs(mean) / error)), seeds, rows
    )
