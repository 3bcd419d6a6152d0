"""Loyalty to the teacher and calibration, on hand-worked cases and against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax

from reports.agreement import calibration_error, label_loyalty, probability_loyalty

STUDENT = np.array([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5], [0.2, 0.1, 3.0], [1.0, 0.9, 0.0]])
TEACHER = np.array([[3.0, 0.0, 0.0], [0.0, 0.2, 2.0], [0.0, 0.0, 4.0], [2.0, 0.0, 0.0]])


def test_label_loyalty_counts_equal_choices() -> None:
    assert label_loyalty(STUDENT, TEACHER) == 0.75


def test_probability_loyalty_is_one_less_the_mean_jensen_shannon_distance() -> None:
    pairs = zip(softmax(STUDENT, axis=1), softmax(TEACHER, axis=1), strict=True)
    distances = [jensenshannon(one, other, base=2) for one, other in pairs]
    assert probability_loyalty(STUDENT, TEACHER) == pytest.approx(1 - np.mean(distances))


def test_a_copy_is_fully_loyal() -> None:
    assert label_loyalty(TEACHER, TEACHER) == 1.0
    assert probability_loyalty(TEACHER, TEACHER) == pytest.approx(1.0)


def test_certain_contradiction_has_no_loyalty() -> None:
    one, other = np.array([[900.0, -900.0]]), np.array([[-900.0, 900.0]])
    assert probability_loyalty(one, other) == pytest.approx(0.0)


def test_calibration_error_on_a_hand_worked_case() -> None:
    # Confidences 0.9 (right), 0.9 (wrong), 0.6 (right), 0.6 (right): |0.9 - 0.5| / 2 + |0.6 - 1| / 2.
    logits = np.log(np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.4, 0.6]]))
    assert calibration_error(logits, np.array([0, 1, 0, 1])) == pytest.approx(0.4)


def test_calibration_error_agrees_with_a_loop_over_bins() -> None:
    random = np.random.default_rng(0)
    logits, labels = random.normal(0, 2, (500, 3)), random.integers(0, 3, 500)
    confidence, right = softmax(logits, axis=1).max(axis=1), logits.argmax(axis=1) == labels
    expected = 0.0
    for number in range(15):
        inside = (confidence > number / 15) & (confidence <= (number + 1) / 15)
        if inside.any():
            expected += inside.mean() * abs(confidence[inside].mean() - right[inside].mean())
    assert calibration_error(logits, labels) == pytest.approx(expected)


def test_honest_confidence_is_calibrated() -> None:
    random = np.random.default_rng(1)
    sure = random.uniform(0.5, 1.0, 20_000)
    logits = np.log(np.stack([sure, 1 - sure], axis=1))
    labels = (random.random(20_000) > sure).astype(int)
    assert calibration_error(logits, labels) < 0.02
