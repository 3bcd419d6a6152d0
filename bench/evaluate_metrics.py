"""The scores as ``evaluate.Metric``, for code that takes such; they need no network.

``import evaluate`` takes seconds: import this module late.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import evaluate
import numpy as np
from datasets import Features, List, Value
from numpy.typing import NDArray

from bench import metrics


class _InMemory(evaluate.Metric):
    """A metric that keeps what it is given in memory."""

    features_: ClassVar[Features]
    description_: ClassVar[str]

    def __init__(self, config_name: str | None = None, keep_in_memory: bool = True, **options: Any) -> None:
        super().__init__(config_name=config_name, keep_in_memory=keep_in_memory, **options)

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=self.description_, citation="", inputs_description="", features=self.features_
        )


class _Pairs(_InMemory):
    """One number for predictions and references of equal length."""

    measure: ClassVar[Callable[[NDArray[Any], NDArray[Any]], float]]

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        value = type(self).measure(np.asarray(predictions), np.asarray(references))
        return {self.name: value}


_CODES = Features({"predictions": Value("int64"), "references": Value("int64")})
_VALUES = Features({"predictions": Value("float64"), "references": Value("float64")})


class Accuracy(_Pairs):
    """Share of predictions that equal their label."""

    features_, description_, measure = _CODES, "share of right predictions", metrics.accuracy


class F1(_Pairs):
    """F1 of class 1."""

    features_, description_, measure = _CODES, "F1 of class 1 of two", metrics.f1


class Matthews(_Pairs):
    """Matthews' correlation coefficient."""

    features_, description_, measure = _CODES, "Matthews' correlation coefficient", metrics.matthews


class Pearson(_Pairs):
    """Linear correlation."""

    features_, description_, measure = _VALUES, "linear correlation", metrics.pearson


class Spearman(_Pairs):
    """Correlation of ranks."""

    features_, description_, measure = _VALUES, "correlation of ranks", metrics.spearman


class Squad(_InMemory):
    """Exact match and F1 of answers, with one or more reference texts each."""

    features_ = Features({"predictions": Value("string"), "references": List(Value("string"))})
    description_ = "exact match and F1 of answers, as SQuAD v1.1 has them"

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        return metrics.judge(predictions, references).scores()


class SquadV2(_InMemory):
    """The same where questions may have no answer: a prediction is a text and the null score difference."""

    features_ = Features(
        {
            "predictions": {"text": Value("string"), "null_difference": Value("float64")},
            "references": List(Value("string")),
        }
    )
    description_ = "exact match and F1 of answers, as SQuAD v2.0 has them"

    def _compute(self, *, predictions: Any, references: Any) -> dict[str, float]:
        texts = [prediction["text"] for prediction in predictions]
        difference = np.array([prediction["null_difference"] for prediction in predictions])
        return metrics.judge(texts, references, difference).scores()


METRICS: dict[str, type[evaluate.Metric]] = {
    "accuracy": Accuracy,
    "f1": F1,
    "matthews": Matthews,
    "pearson": Pearson,
    "spearman": Spearman,
    "squad": Squad,
    "squad-v2": SquadV2,
}
