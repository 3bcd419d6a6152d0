"""How much a student kept of its teacher, and whether its confidence can be believed."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from results.agreement import label_loyalty, probability_loyalty

__all__ = ["calibration_error", "label_loyalty", "probability_loyalty"]

Array = NDArray[np.float64]
BINS = 15


def calibration_error(logits: Array, labels: NDArray[Any], *, bins: int = BINS) -> float:
    """Return the expected calibration error over equally wide bins of confidence (Naeini et al. 2015; Guo et al. 2017).

    Args:
        logits: ``[rows, classes]``.
        labels: Gold codes ``[rows]``.
        bins: Number of bins over (0, 1].
    """
    confidence = softmax(np.ascontiguousarray(logits.T), axis=0).max(axis=0)
    right = (logits.argmax(axis=1) == labels).astype(float)
    bin_of = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gap = np.bincount(bin_of, weights=confidence - right, minlength=bins)
    return float(np.abs(gap).sum() / len(labels))
