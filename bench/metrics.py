"""Scores of classification and regression: plain functions of numpy arrays.

Values lie in [0, 1], correlations in [-1, 1]. Each is also an ``evaluate.Metric`` in ``bench.evaluate_metrics``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.integer[Any]]
Values = NDArray[np.floating[Any]]


def accuracy(predictions: Codes, labels: Codes) -> float:
    """Return the share of predictions that equal their label."""
    _check(predictions, labels)
    return float(np.mean(predictions == labels))


def f1(predictions: Codes, labels: Codes) -> float:
    """Return the harmonic mean of precision and recall of class 1; 0 where it is neither predicted nor there.

    Raises:
        ValueError: If a code is neither 0 nor 1.
    """
    _check(predictions, labels)
    if not np.isin([predictions, labels], (0, 1)).all():
        raise ValueError("f1 is that of class 1 among 0 and 1; for more classes use accuracy")
    hits = int(np.sum((predictions == 1) & (labels == 1)))
    marked = int(np.sum(predictions == 1) + np.sum(labels == 1))
    return 2 * hits / marked if marked else 0.0


def matthews(predictions: Codes, labels: Codes) -> float:
    """Return Matthews' correlation coefficient for any number of classes; 0 where one side is constant.

    Gorodkin (2004), equation 8: the correlation of the two indicator matrices.
    """
    _check(predictions, labels)
    classes = np.union1d(predictions, labels)
    predicted = np.array([np.sum(predictions == code) for code in classes], dtype=np.float64)
    actual = np.array([np.sum(labels == code) for code in classes], dtype=np.float64)
    rows = float(len(labels))
    covariance = rows * np.sum(predictions == labels) - predicted @ actual
    spread = (rows**2 - predicted @ predicted) * (rows**2 - actual @ actual)
    return float(covariance / np.sqrt(spread)) if spread > 0 else 0.0


def pearson(predictions: Values, labels: Values) -> float:
    """Return the linear correlation; 0 where one side is constant, as a predictor of one value explains nothing."""
    _check(predictions, labels)
    predicted, actual = _centred(predictions), _centred(labels)
    spread = np.sqrt(predicted @ predicted) * np.sqrt(actual @ actual)
    return float(np.clip(predicted @ actual / spread, -1, 1)) if spread > 0 else 0.0


def spearman(predictions: Values, labels: Values) -> float:
    """Return the correlation of ranks; equal values share their mean rank."""
    _check(predictions, labels)
    return pearson(_ranks(predictions), _ranks(labels))


CLASSIFICATION: dict[str, Callable[[Codes, Codes], float]] = {"accuracy": accuracy, "f1": f1, "matthews": matthews}
REGRESSION: dict[str, Callable[[Values, Values], float]] = {"pearson": pearson, "spearman": spearman}


def _check(predictions: NDArray[Any], labels: NDArray[Any]) -> None:
    if predictions.shape != labels.shape or predictions.ndim != 1 or predictions.size == 0:
        raise ValueError(f"need as many predictions as labels, not {predictions.shape} and {labels.shape}")


def _centred(values: Values) -> NDArray[np.float64]:
    """Subtract the mean and scale to a largest value of 1, so that squares neither overflow nor vanish."""
    exact = values.astype(np.float64)
    if exact.min() == exact.max():
        return np.zeros_like(exact)
    centred = exact - exact.mean()
    return centred / np.abs(centred).max()  # type: ignore[no-any-return]


def _ranks(values: Values) -> NDArray[np.float64]:
    _, group, sizes = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(sizes)
    return (last - (sizes - 1) / 2)[group]
