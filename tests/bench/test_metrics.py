from __future__ import annotations

import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import stats
from sklearn import metrics as oracle

from bench import metrics


def pairs(values: st.SearchStrategy, dtype: type) -> st.SearchStrategy:
    return st.integers(1, 60).flatmap(
        lambda rows: st.tuples(
            arrays.arrays(dtype, rows, elements=values), arrays.arrays(dtype, rows, elements=values)
        )
    )


codes = pairs(st.integers(0, 3), np.int64)
binary = pairs(st.integers(0, 1), np.int64)
numbers = pairs(st.floats(-1e6, 1e6, width=32), np.float64)


@given(codes)
def test_accuracy_is_scikit_learns(pair: tuple[np.ndarray, np.ndarray]) -> None:
    assert metrics.accuracy(*pair) == pytest.approx(oracle.accuracy_score(pair[1], pair[0]), abs=1e-12)


@given(binary)
def test_f1_is_scikit_learns(pair: tuple[np.ndarray, np.ndarray]) -> None:
    expected = oracle.f1_score(pair[1], pair[0], zero_division=0)
    assert metrics.f1(*pair) == pytest.approx(expected, abs=1e-12)


@given(codes)
def test_matthews_is_scikit_learns(pair: tuple[np.ndarray, np.ndarray]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about a single class
        expected = oracle.matthews_corrcoef(pair[1], pair[0])
    assert metrics.matthews(*pair) == pytest.approx(expected, abs=1e-12)


@given(numbers)
@settings(deadline=None)
def test_spearman_is_scipys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    if min(len(set(side)) for side in pair) > 1:
        assert metrics.spearman(*pair) == pytest.approx(stats.spearmanr(*pair).statistic, abs=1e-9)


@given(pairs(st.integers(-1000, 1000).map(float), np.float64))
@settings(deadline=None)
def test_pearson_is_scipys(pair: tuple[np.ndarray, np.ndarray]) -> None:
    if min(len(set(side)) for side in pair) > 1:
        assert metrics.pearson(*pair) == pytest.approx(stats.pearsonr(*pair).statistic, abs=1e-9)


@given(numbers, st.sampled_from([1e-150, 1e-30, 1e150]))
def test_pearson_does_not_depend_on_the_scale(pair: tuple[np.ndarray, np.ndarray], scale: float) -> None:
    predictions, labels = pair
    assert metrics.pearson(predictions * scale, labels) == pytest.approx(metrics.pearson(*pair), abs=1e-6)


@pytest.mark.parametrize("measure", [metrics.pearson, metrics.spearman, metrics.matthews])
def test_a_constant_prediction_correlates_with_nothing(measure) -> None:
    constant, labels = np.full(4, 1), np.array([0, 1, 1, 0])
    assert measure(constant, labels) == 0
    assert measure(labels, constant) == 0


@pytest.mark.parametrize("measure", [metrics.accuracy, metrics.f1, metrics.matthews, metrics.pearson])
def test_different_numbers_of_rows_and_no_rows_are_refused(measure) -> None:
    with pytest.raises(ValueError, match="as many predictions as labels"):
        measure(np.array([1, 0]), np.array([1]))
    with pytest.raises(ValueError, match="as many predictions as labels"):
        measure(np.array([], dtype=int), np.array([], dtype=int))


def test_f1_of_three_classes_is_refused() -> None:
    with pytest.raises(ValueError, match="class 1 among 0 and 1"):
        metrics.f1(np.array([0, 2]), np.array([0, 1]))


@pytest.mark.parametrize(
    ("text", "normalized"),
    [
        ("The Cat", "cat"),
        ("a cat and an owl", "cat and owl"),
        ("  two \t\n spaces ", "two spaces"),
        ("Theatre", "theatre"),  # an article is a whole word
        ("the-cat", "thecat"),  # punctuation goes first, without leaving a space
        ("U.S.", "us"),
        ("$1,000.50", "100050"),
        ("rock 'n' roll", "rock n roll"),
        ("A", ""),
        ("the", ""),
        ("...", ""),
        ("“quoted”", "“quoted”"),  # only ASCII punctuation
        ("10–7", "10–7"),
        ("Beyoncé", "beyoncé"),
        ("ÉCOLE", "école"),
        ("no\u00a0break", "no break"),
        ("the\u00a0a b", "b"),
        ("日本", "日本"),
        ("", ""),
    ],
)
def test_answers_are_normalised_as_squad_does(text: str, normalized: str) -> None:
    assert metrics.normalize_answer(text) == normalized


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("Denver Broncos", ["Denver Broncos"], 1, 1),
        ("the Denver Broncos!", ["Denver Broncos"], 1, 1),
        ("Broncos", ["Denver Broncos"], 0, 2 / 3),
        ("Denver Broncos of Colorado", ["Denver Broncos"], 0, 2 / 3),
        ("Carolina", ["Denver Broncos"], 0, 0),
        ("Broncos", ["Denver Broncos", "Broncos", "team"], 1, 1),  # the best reference counts
        ("gold gold", ["gold"], 0, 2 / 3),  # a repeated word counts once for each time it is there
        ("gold gold", ["gold gold bar"], 0, 0.8),
        ("1,000", ["1000"], 1, 1),
        ("café", ["cafe"], 0, 0),
        ("", [], 1, 1),  # unanswerable, abstained
        ("Denver", [], 0, 0),
        ("the", [], 1, 1),  # nothing is left of it
        ("", ["Denver"], 0, 0),
        ("the", ["a"], 1, 1),
        ("", ["the", "Denver"], 0, 0),  # a reference of which nothing is left does not count beside another
    ],
)
def test_answers_are_scored_as_worked_by_hand(
    answer: str, references: list[str], exact: int, f1: float
) -> None:
    assert metrics.answer_exact_match(answer, references) == exact
    assert metrics.answer_f1(answer, references) == pytest.approx(f1)


words = st.text(alphabet="ab the,.", max_size=12)


@given(words, st.lists(words, max_size=3))
def test_f1_lies_between_exact_match_and_one(answer: str, references: list[str]) -> None:
    f1 = metrics.answer_f1(answer, references)
    assert metrics.answer_exact_match(answer, references) <= f1 <= 1


scored = st.lists(
    st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 1.0]), st.integers(-3, 3)),
    min_size=1,
    max_size=30,
)


@given(scored)
def test_the_best_threshold_is_the_best_of_all(rows: list[tuple[float, float, int]]) -> None:
    answered, abstained, difference = (
        np.array(column, dtype=np.float64) for column in zip(*rows, strict=True)
    )
    means = {
        threshold: float(np.where(difference <= threshold, answered, abstained).mean())
        for threshold in [-np.inf, *difference]
    }
    best, threshold = metrics.best_threshold(answered, abstained, difference)
    assert best == pytest.approx(max(means.values()))
    assert means[threshold] == pytest.approx(best)


def test_judgement_of_answerable_and_unanswerable_questions_by_hand() -> None:
    answers = ["the cat", "dog", "owl", "crow"]
    references = [["cat"], ["big dog"], [], []]
    difference = np.array([-2.0, 1.0, 3.0, -1.0])  # abstains on the second and third
    scores = metrics.judge(answers, references, difference).scores()
    assert scores["exact_match"] == pytest.approx(2 / 4)
    assert scores["has_answer_f1"] == pytest.approx(1 / 2)
    assert scores["no_answer_exact_match"] == pytest.approx(1 / 2)
    assert scores["best_exact_match"] == pytest.approx(3 / 4)  # threshold -2: only the first is answered
    assert scores["best_f1"] == pytest.approx(3 / 4)


def test_judgement_without_abstaining_has_no_best_threshold() -> None:
    judgement = metrics.judge(["cat", "x"], [["cat"], ["dog"]])
    assert judgement.scores() == {
        "exact_match": 0.5,
        "has_answer_exact_match": 0.5,
        "f1": 0.5,
        "has_answer_f1": 0.5,
    }
    assert judgement.row_scores()["f1"].tolist() == [1, 0]
