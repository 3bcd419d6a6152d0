"""Intervals against textbook values, and corrections against worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from reports.statistics import geometric_mean, holm, mean_interval, permutation_floor


def test_the_interval_is_students() -> None:
    values = [0.71, 0.74, 0.70, 0.77]
    found = mean_interval(values)
    expected = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert found.mean == pytest.approx(0.73)
    assert found.n == 4


def test_one_value_has_no_interval() -> None:
    assert mean_interval([0.5]).low is None
    assert mean_interval([0.5]).high is None


@pytest.mark.parametrize("values", [[], [0.5, math.nan], [math.inf]])
def test_values_without_a_mean_are_refused(values: list[float]) -> None:
    with pytest.raises(ValueError, match="finite values"):
        mean_interval(values)


def test_the_interval_over_seeds_covers_the_truth_at_its_level() -> None:
    random = np.random.default_rng(0)
    runs = random.normal(0.8, 0.01, (2000, 5))
    covered = 0
    for run in runs:
        found = mean_interval(run.tolist())
        assert found.low is not None
        assert found.high is not None
        covered += found.low <= 0.8 <= found.high
    assert 0.93 <= covered / len(runs) <= 0.97


def test_one_ratio_keeps_its_own_interval() -> None:
    found = geometric_mean([(2.0, 1.8, 2.3)])
    assert (found.mean, found.low, found.high) == pytest.approx((2.0, 1.8, 2.3))


def test_a_ratio_and_its_inverse_pool_to_one() -> None:
    found = geometric_mean([(2.0, 1.9, 2.1), (0.5, 0.48, 0.53)])
    assert found.mean == pytest.approx(1.0)
    assert found.low is not None
    assert found.high is not None
    assert found.low < 1 < found.high


def test_pooling_narrows_the_interval_by_the_root_of_their_number() -> None:
    one, four = geometric_mean([(1.5, 1.4, 1.6)]), geometric_mean([(1.5, 1.4, 1.6)] * 4)
    assert one.low is not None
    assert four.low is not None
    assert math.log(1.5 / four.low) == pytest.approx(math.log(1.5 / one.low) / 2)


def test_pooling_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        geometric_mean([])


def test_holm_on_a_worked_example() -> None:
    # 4 × 0.01, 3 × 0.02, 2 × 0.03 (raised to its forerunner), 1 × 0.2.
    assert holm({"c": 0.03, "a": 0.01, "d": 0.2, "b": 0.02}) == pytest.approx(
        {"c": 0.06, "a": 0.04, "d": 0.2, "b": 0.06}
    )


def test_holm_never_exceeds_one_nor_falls_below_the_raw_value() -> None:
    assert holm({"a": 0.9, "b": 0.8}) == {"a": 1.0, "b": 1.0}
    assert holm({}) == {}


def test_five_seeds_cannot_reach_five_percent_by_an_exact_permutation_test() -> None:
    differences = np.array([0.01, 0.02, 0.01, 0.03, 0.02])
    signs = np.array(np.meshgrid(*[[-1, 1]] * 5)).reshape(5, -1).T
    means = np.abs((signs * differences).mean(axis=1))
    smallest = (means >= abs(differences.mean()) - 1e-12).mean()
    assert permutation_floor(5) == smallest == 0.0625
