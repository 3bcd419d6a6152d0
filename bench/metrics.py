"""Scores as plain functions: of codes, of values, of answer texts.

Values lie in [0, 1], correlations in [-1, 1]. Each is also an ``evaluate.Metric`` in ``bench.evaluate_metrics``.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
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


def normalize_answer(text: str) -> str:
    """Return lower-case words without ASCII punctuation and English articles, as SQuAD compares them."""
    bare = text.lower().translate(_NO_PUNCTUATION)
    return " ".join(_ARTICLES.sub(" ", bare).split())


def answer_exact_match(prediction: str, references: Sequence[str]) -> float:
    """Return 1 where the normalised answer equals one of the normalised references, else 0.

    An unanswerable question, one without references, is answered by an empty text.
    """
    predicted = normalize_answer(prediction)
    return float(any(predicted == reference for reference in _normalized(references)))


def answer_f1(prediction: str, references: Sequence[str]) -> float:
    """Return the best F1 of the answer's words with a reference's, repeated words counted.

    Where either is empty once normalised: 1 if both are, else 0, as SQuAD v2.0 has it.
    """
    predicted = Counter(normalize_answer(prediction).split())
    return max(_overlap(predicted, Counter(reference.split())) for reference in _normalized(references))


def best_threshold(answered: Values, abstained: Values, null_difference: Values) -> tuple[float, float]:
    """Find the threshold on the null score difference with the best mean score.

    A row is answered where its difference is at most the threshold.

    Args:
        answered: Score of each row if it is answered, ``[rows]``.
        abstained: Its score if it is not.
        null_difference: Score of having no answer minus score of the answer.

    Returns:
        The best mean score and its threshold, the smallest of the best; minus infinity answers no row.
    """
    order = np.argsort(null_difference, kind="stable")
    gains = np.concatenate([[0.0], np.cumsum((answered - abstained)[order])])
    thresholds = np.concatenate([[-np.inf], null_difference[order]])
    # rows of one difference are answered together: only the last of them may be the threshold
    possible = np.append(thresholds[1:] > thresholds[:-1], True)
    best = int(np.where(possible, gains, -np.inf).argmax())
    return float(np.mean(abstained) + gains[best] / len(answered)), float(thresholds[best])


@dataclass(frozen=True, eq=False)
class Judgement:
    """How good the answers to each question are; exact match and F1 by name, ``[rows]`` each.

    Attributes:
        answered: Scores of the answers.
        abstained: Scores of the empty answer.
        null_difference: By the model, the score of having no answer minus that of the answer; above 0 it abstains. None
            where it may not.
        answerable: Which questions have a reference answer.
    """

    answered: dict[str, Values]
    abstained: dict[str, Values]
    null_difference: Values | None
    answerable: NDArray[np.bool_]

    def row_scores(self) -> dict[str, Values]:
        """Return exact match and F1 of every question."""
        if self.null_difference is None:
            return self.answered
        empty = self.null_difference > 0
        return {name: np.where(empty, self.abstained[name], self.answered[name]) for name in self.answered}

    def scores(self) -> dict[str, float]:
        """Return the means: of all, of answerable and unanswerable questions, and at the best threshold.

        Those of a kind of question that there is none of are left out.
        """
        scores: dict[str, float] = {}
        for name, values in self.row_scores().items():
            scores[name] = float(values.mean())
            for kind, members in (("has_answer", self.answerable), ("no_answer", ~self.answerable)):
                if members.any():
                    scores[f"{kind}_{name}"] = float(values[members].mean())
            if self.null_difference is not None:
                best, _ = best_threshold(self.answered[name], self.abstained[name], self.null_difference)
                scores[f"best_{name}"] = best
        return scores


def judge(
    answers: Sequence[str], references: Sequence[Sequence[str]], null_difference: Values | None = None
) -> Judgement:
    """Compare answers with the references of their questions, of which an unanswerable one has none."""
    measures = {"exact_match": answer_exact_match, "f1": answer_f1}
    return Judgement(
        answered={
            name: np.array([measure(*pair) for pair in zip(answers, references, strict=True)])
            for name, measure in measures.items()
        },
        abstained={
            name: np.array([measure("", texts) for texts in references]) for name, measure in measures.items()
        },
        null_difference=null_difference,
        answerable=np.array([len(texts) > 0 for texts in references]),
    )


_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def _normalized(references: Sequence[str]) -> list[str]:
    """Normalise references; those of which nothing is left count only where there is no other."""
    return [text for text in map(normalize_answer, references) if text] or [""]


def _overlap(predicted: Counter[str], reference: Counter[str]) -> float:
    """Return the F1 of two bags of words."""
    if not predicted or not reference:
        return float(predicted == reference)
    return 2 * (predicted & reference).total() / (predicted.total() + reference.total())


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
