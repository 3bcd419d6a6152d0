"""How far two models agree about the same rows (Xu et al. 2021)."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax, softmax

Array = NDArray[np.float64]


def label_loyalty(student: Array, teacher: Array) -> float:
    """Return the share of rows on which both choose the same class (Xu et al. 2021).

    Args:
        student: Logits ``[rows, classes]``.
        teacher: Logits ``[rows, classes]``.
    """
    return float((student.argmax(axis=1) == teacher.argmax(axis=1)).mean())


def probability_loyalty(student: Array, teacher: Array) -> float:
    """Return 1 minus the mean Jensen-Shannon distance of the class probabilities (Xu et al. 2021), base 2.

    Args:
        student: Logits ``[rows, classes]``.
        teacher: Logits ``[rows, classes]``.
    """
    # a few long rows of numbers are summed far sooner than many short ones
    first, second = np.ascontiguousarray(student.T), np.ascontiguousarray(teacher.T)
    one, other = softmax(first, axis=0), softmax(second, axis=0)
    middle = np.log(np.clip((one + other) / 2, 1e-300, None))
    divergence = (
        (one * (log_softmax(first, axis=0) - middle)) + (other * (log_softmax(second, axis=0) - middle))
    ).sum(axis=0) / (2 * np.log(2))
    return float(1 - np.sqrt(np.clip(divergence, 0, 1)).mean())
