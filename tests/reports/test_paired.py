"""The paired tests: oracles, then simulations of their level, coverage and power."""

from __future__ import annotations

from functools import partial
from itertools import product

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics

from reports.paired import compare_means, compare_resampled, crossed, mcnemar
from reports.resampling import SCORES, draws

Array = NDArray[np.float64]


@pytest.mark.parametrize(("first_alone", "second_alone"), [(0, 1), (3, 9), (10, 10), (25, 40)])
def test_mcnemar_is_the_exact_binomial_test_less_half_the_observed_outcome(
    first_alone: int, second_alone: int
) -> None:
    discordant = first_alone + second_alone
    exact = stats.binomtest(first_alone, discordant).pvalue
    observed = stats.binom.pmf(first_alone, discordant, 0.5)
    expected = 1.0 if first_alone == second_alone else exact - observed
    assert mcnemar(first_alone, second_alone) == pytest.approx(expected)


def test_mcnemar_without_a_discordant_row_finds_nothing() -> None:
    assert mcnemar(0, 0) == 1.0


def test_one_seed_of_right_and_wrong_answers_is_mcnemars_test() -> None:
    first = np.array([[1, 1, 1, 1, 0, 1, 1, 0.0]])
    second = np.array([[0, 0, 1, 0, 1, 0, 0, 0.0]])
    found = compare_means(first, second)
    assert found.p_value == mcnemar(5, 1)
    assert found.mean == 0.5
    assert (found.seeds, found.rows) == (1, 8)


def test_several_seeds_agree_with_the_two_way_analysis_of_variance() -> None:
    random = np.random.default_rng(3)
    seeds, rows = 4, 50
    data = (
        random.normal(0.1, 1, (1, rows))
        + random.normal(0, 0.5, (seeds, 1))
        + random.normal(0, 1, (seeds, rows))
    )
    row_square = seeds * data.mean(axis=0).var(ddof=1)
    seed_square = rows * data.mean(axis=1).var(ddof=1)
    rest = data - data.mean(axis=0) - data.mean(axis=1, keepdims=True) + data.mean()
    rest_square = (rest**2).sum() / ((seeds - 1) * (rows - 1))
    variance = (row_square + seed_square - rest_square) / (seeds * rows)
    freedom = variance**2 / sum(
        (square / (seeds * rows)) ** 2 / degrees
        for square, degrees in (
            (row_square, rows - 1),
            (seed_square, seeds - 1),
            (rest_square, (seeds - 1) * (rows - 1)),
        )
    )
    found = compare_means(data, np.zeros_like(data))
    assert found.p_value == pytest.approx(2 * stats.t.sf(abs(data.mean()) / np.sqrt(variance), freedom))
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, freedom) * np.sqrt(variance))


def test_equal_methods_differ_by_nothing() -> None:
    same = np.ones((3, 20))
    assert compare_means(same, same).p_value == 1.0


def test_swapping_the_methods_swaps_the_sign_alone() -> None:
    random = np.random.default_rng(0)
    first, second = random.random((3, 40)), random.random((3, 40))
    one, other = compare_means(first, second), compare_means(second, first)
    assert one.p_value == pytest.approx(other.p_value)
    assert (one.low, one.high) == pytest.approx((-other.high, -other.low))


ORACLES = {
    "f1": metrics.f1_score,
    "matthews": metrics.matthews_corrcoef,
    "pearson": lambda actual, said: stats.pearsonr(actual, said).statistic,
    "spearman": lambda actual, said: stats.spearmanr(actual, said).statistic,
}


@pytest.mark.parametrize("score", ORACLES)
def test_a_score_of_counts_is_the_score_of_the_resample_written_out(score: str) -> None:
    random = np.random.default_rng(1)
    graded = score in ("pearson", "spearman")
    actual = random.integers(0, 6, 60).astype(float) if graded else random.integers(0, 2, 60)
    said = (
        (actual + random.normal(0, 2, 60)).round()
        if graded
        else np.where(random.random(60) < 0.8, actual, 1 - actual)
    )
    counts = np.concatenate([np.ones((1, 60)), *draws(60, resamples=20)])
    found = SCORES[score](said, actual, counts)
    for value, count in zip(found, counts.astype(int), strict=True):
        assert value == pytest.approx(ORACLES[score](np.repeat(actual, count), np.repeat(said, count)))


def test_matthews_of_several_classes() -> None:
    random = np.random.default_rng(2)
    actual = random.integers(0, 3, 50)
    said = np.where(random.random(50) < 0.7, actual, random.integers(0, 3, 50))
    found = SCORES["matthews"](said, actual, np.ones((1, 50)))[0]
    assert found == pytest.approx(metrics.matthews_corrcoef(actual, said))


@pytest.mark.parametrize("score", ["f1", "matthews"])
def test_a_method_that_never_says_one_scores_zero(score: str) -> None:
    assert SCORES[score](np.zeros(4), np.array([0, 1, 0, 1]), np.ones((1, 4)))[0] == 0


def test_draws_are_the_same_every_time_and_keep_the_number_of_rows() -> None:
    one, other = (np.concatenate(list(draws(37, resamples=10))) for _ in range(2))
    assert (one == other).all()
    assert (one.sum(axis=1) == 37).all()


def test_blocks_of_draws_make_up_all_resamples() -> None:
    blocks = list(draws(900_000, resamples=5))
    assert [len(block) for block in blocks] == [2, 2, 1]


def test_the_bootstrap_agrees_with_the_closed_form_on_a_mean() -> None:
    first, second = answers(0.75, seeds=4, rows=300, seed=5), answers(0.70, seeds=4, rows=300, seed=6)

    def mean(values: Array, counts: Array) -> Array:
        return np.asarray(counts @ values / counts.sum(axis=1))

    exact = compare_means(first, second)
    drawn = compare_resampled(
        [partial(mean, row) for row in first], [partial(mean, row) for row in second], 300
    )
    assert drawn.mean == pytest.approx(exact.mean)
    assert (drawn.low, drawn.high) == pytest.approx((exact.low, exact.high), abs=0.006)


def test_no_spread_between_seeds_leaves_the_variance_of_the_rows() -> None:
    covariance = np.full((3, 3), 0.0004)
    found = crossed(np.array([0.05, 0.05, 0.05]), covariance, rows=101)
    assert found.high - found.low == pytest.approx(2 * stats.t.ppf(0.975, 100) * 0.02)


def answers(level: float, *, seeds: int, rows: int, seed: int) -> Array:
    """Simulate right and wrong answers: rows of shared difficulty, a method's own taste, seeds that wobble."""
    shared, random = np.random.default_rng(9).normal(0, 1, rows), np.random.default_rng(seed)
    noise = (
        random.normal(0, 0.4, rows)
        + random.normal(0, 0.05, (seeds, 1))
        + random.normal(0, 0.6, (seeds, rows))
    )
    return (1.2 * stats.norm.ppf(level) + shared + noise > 0).astype(float)


def campaigns(
    count: int, *, seeds: int, rows: int, wobble: float, gap: float, seed: int
) -> tuple[Array, Array]:
    """Simulate many pairs of methods whose true accuracies are 0.80 and 0.80 + gap, ``[count, seeds, rows]`` each."""
    random = np.random.default_rng(seed)
    shared = random.normal(0, 1.0, (count, 1, rows))
    spread = np.sqrt(1 + 0.4**2 + 0.6**2 + wobble**2)
    sides = []
    for level in (0.80 + gap, 0.80):
        taste, luck = random.normal(0, 0.4, (count, 1, rows)), random.normal(0, wobble, (count, seeds, 1))
        noise = random.normal(0, 0.6, (count, seeds, rows))
        sides.append((stats.norm.ppf(level) * spread + shared + taste + luck + noise > 0).astype(float))
    return sides[0], sides[1]


def simulate(count: int, **options: float) -> tuple[float, float, float, Array]:
    """Return the share of p < 0.05, the share of intervals that cover, the true standard error and the means."""
    gap = options.pop("gap", 0.0)
    first, second = campaigns(count, gap=gap, **options)  # type: ignore[arg-type]
    found = [compare_means(one, other) for one, other in zip(first, second, strict=True)]
    means = np.array([one.mean for one in found])
    alarms = float(np.mean([one.p_value < 0.05 for one in found]))
    covered = float(np.mean([one.low <= gap <= one.high for one in found]))
    return alarms, covered, float(means.std(ddof=1)), means


# Seeds that hardly matter, and seeds that matter as much as the choice of rows does.
SETTINGS = [(1, 300, 0.0), (5, 200, 0.03), (5, 400, 0.10), (8, 200, 0.06)]


@pytest.mark.parametrize(("seeds", "rows", "wobble"), SETTINGS)
def test_no_difference_gives_few_false_alarms_and_covering_intervals(
    seeds: int, rows: int, wobble: float
) -> None:
    alarms, covered, _, _ = simulate(1200, seeds=seeds, rows=rows, wobble=wobble, seed=11)
    # Three standard errors of 1,200 trials around the band that is promised.
    assert 0.03 - 0.015 <= alarms <= 0.06 + 0.02
    assert 0.93 - 0.02 <= covered <= 0.97 + 0.015


@pytest.mark.parametrize(("seeds", "rows", "wobble"), [(2, 200, 0.03), (2, 400, 0.1), (3, 400, 0.1)])
def test_few_seeds_do_not_pass_for_certainty(seeds: int, rows: int, wobble: float) -> None:
    alarms, covered, _, _ = simulate(1000, seeds=seeds, rows=rows, wobble=wobble, seed=16)
    assert alarms <= 0.08
    assert covered >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize(("seeds", "rows", "wobble"), [*SETTINGS, (5, 1000, 0.05), (10, 500, 0.1)])
def test_the_level_is_between_three_and_six_percent(seeds: int, rows: int, wobble: float) -> None:
    alarms, covered, _, _ = simulate(6000, seeds=seeds, rows=rows, wobble=wobble, seed=12)
    assert 0.03 <= alarms <= 0.06
    assert 0.93 <= covered <= 0.97


@pytest.mark.parametrize(("seeds", "rows", "wobble"), [(1, 1500, 0.0), (5, 1000, 0.02)])
def test_two_points_are_found_at_the_rate_of_the_theory(seeds: int, rows: int, wobble: float) -> None:
    found, covered, error, _ = simulate(500, seeds=seeds, rows=rows, wobble=wobble, gap=0.02, seed=13)
    expected = stats.norm.sf(stats.norm.ppf(0.975) - 0.02 / error)
    assert found == pytest.approx(expected, abs=0.06)
    assert covered > 0.92


def test_ignoring_seeds_would_raise_false_alarms() -> None:
    """Show why seeds are a second source of chance: the same data, rows alone."""
    first, second = campaigns(400, seeds=5, rows=400, wobble=0.15, gap=0.0, seed=14)
    pooled = [
        stats.ttest_1samp((one - other).mean(axis=0), 0).pvalue < 0.05
        for one, other in zip(first, second, strict=True)
    ]
    crossed_too = [compare_means(one, other).p_value < 0.05 for one, other in zip(first, second, strict=True)]
    assert np.mean(pooled) > 0.2
    assert np.mean(crossed_too) < 0.09


def correlated(count: int, rows: int, seeds: int, seed: int) -> tuple[Array, Array, Array]:
    random = np.random.default_rng(seed)
    truth = random.normal(size=(count, 1, rows))
    sides = [
        truth + random.normal(0, 0.5, (count, 1, rows)) + random.normal(0, 0.3, (count, seeds, rows))
        for _ in "ab"
    ]
    return truth[:, 0], sides[0], sides[1]


@pytest.mark.parametrize("score", ["matthews", "pearson"])
def test_the_bootstrap_keeps_its_level_on_scores_that_are_no_means(score: str) -> None:
    truth, first, second = correlated(300, 150, 3, 15)
    if score == "matthews":
        truth, first, second = truth > 0, first > 0, second > 0
    alarms = []
    for actual, one, other in zip(truth, first, second, strict=True):
        sides = [[partial(SCORES[score], said, actual) for said in side] for side in (one, other)]
        alarms.append(compare_resampled(sides[0], sides[1], 150, resamples=200).p_value < 0.05)
    assert 0.01 <= np.mean(alarms) <= 0.09


@pytest.mark.slow
@pytest.mark.parametrize("score", ["matthews", "f1", "pearson", "spearman"])
def test_the_bootstrap_is_between_three_and_six_percent(score: str) -> None:
    truth, first, second = correlated(1000, 300, 5, 17)
    if score in ("matthews", "f1"):
        truth, first, second = truth > 0, first > 0, second > 0
    found = []
    for actual, one, other in zip(truth, first, second, strict=True):
        sides = [[partial(SCORES[score], said, actual) for said in side] for side in (one, other)]
        found.append(compare_resampled(sides[0], sides[1], 300, resamples=300))
    assert 0.03 <= np.mean([difference.p_value < 0.05 for difference in found]) <= 0.06
    assert 0.93 <= np.mean([difference.low <= 0 <= difference.high for difference in found]) <= 0.97


def test_every_pair_of_one_row_and_one_seed_has_a_value() -> None:
    for one, other in product((0.0, 1.0), repeat=2):
        found = compare_means(np.array([[one]]), np.array([[other]]))
        assert found.mean == one - other
