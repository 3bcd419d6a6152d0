"""Intervals, corrections and tie groups; what each means and where it comes from is in docs/statistics.md."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import special  # of scipy.stats only its import would be felt

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Estimate:
    """A mean with its interval; the interval is None where one value alone gives none."""

    mean: float
    low: float | None
    high: float | None
    n: int


def mean_interval(values: Sequence[float]) -> Estimate:
    """Estimate the mean over independent runs (seeds) with Student's t-interval.

    Raises:
        ValueError: Where there is no value, or one is not finite.
    """
    sample = np.asarray(values, dtype=float)
    if sample.size == 0 or not np.isfinite(sample).all():
        raise ValueError(f"a mean needs finite values, got {list(values)}")
    mean = float(sample.mean())
    if sample.size == 1:
        return Estimate(mean, None, None, 1)
    half = student_quantile(sample.size - 1) * float(sample.std(ddof=1)) / math.sqrt(sample.size)
    return Estimate(mean, mean - half, mean + half, sample.size)


def student_quantile(freedom: float) -> float:
    """Return how many standard errors the 95 % interval of Student's t reaches to either side."""
    return float(special.stdtrit(freedom, (1 + CONFIDENCE) / 2))


def geometric_mean(intervals: Sequence[tuple[float, float, float]]) -> Estimate:
    """Pool independent ratios, each with its own interval, by their geometric mean.

    The interval adds the variances of the logarithms, which the given intervals imply; it speaks of the uncertainty of
    these timings, not of how far the ratio varies from one task to the next.

    Args:
        intervals: (ratio, low, high) of each timing.
    """
    if not intervals:
        raise ValueError("a geometric mean needs at least one ratio")
    logs = np.log(np.asarray(intervals, dtype=float))
    centre = logs[:, 0].mean()
    below = math.sqrt(((logs[:, 0] - logs[:, 1]) ** 2).sum()) / len(logs)
    above = math.sqrt(((logs[:, 2] - logs[:, 0]) ** 2).sum()) / len(logs)
    return Estimate(math.exp(centre), math.exp(centre - below), math.exp(centre + above), len(logs))


Name = TypeVar("Name", bound=Hashable)


def holm(p_values: Mapping[Name, float]) -> dict[Name, float]:
    """Adjust p-values so that the chance of any false alarm in the family stays at the level (Holm 1979)."""
    adjusted: dict[Name, float] = {}
    running = 0.0
    for rank, name in enumerate(sorted(p_values, key=lambda key: p_values[key])):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = running
    return {name: adjusted[name] for name in p_values}


def permutation_floor(n: int) -> float:
    """Return the smallest two-sided p-value that an exact sign-flip test over ``n`` pairs can give."""
    return min(1.0, 2.0 ** (1 - n))
