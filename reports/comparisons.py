"""Everything that is read from predictions: paired tests, tie groups, loyalty to the teacher, calibration."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import TypeGuard

import numpy as np
from numpy.typing import NDArray

from reports.agreement import calibration_error, label_loyalty, probability_loyalty
from reports.outcomes import main_score, outcomes, teacher_label
from reports.paired import Difference, compare_draws, compare_means, resample
from reports.resampling import SCORES
from reports.statistics import Estimate, holm, mean_interval
from results.frame import Frame
from results.predictions import Predictions, read_predictions

LEVEL = 0.05
BySeed = Mapping[int, Predictions]
Draws = NDArray[np.float64]  # scores of all rows and of resamples of them, ``[1 + resamples]``


@dataclass(frozen=True)
class Comparison:
    """One method against a reference on one split of a task.

    Attributes:
        difference: The method minus the reference; None where it cannot be tested.
        adjusted: Holm's p-value over all methods compared with that reference; None where it cannot be tested.
        reason: Why it cannot be tested.
    """

    difference: Difference | None
    adjusted: float | None
    reason: str = ""


@dataclass(frozen=True)
class Comparisons:
    """What the predictions of a split say about its methods.

    Attributes:
        best: Student with the highest mean score; None where there are no two to compare.
        with_best: Every other student against the best.
        with_teacher: Every student against the teacher.
        label_loyalty: Share of rows on which the student chooses what its teacher chooses, mean over seeds.
        probability_loyalty: 1 minus the Jensen-Shannon distance to the teacher's probabilities, mean over seeds.
        calibration_error: Expected calibration error, mean over seeds.
    """

    best: str | None = None
    with_best: Mapping[str, Comparison] = field(default_factory=dict)
    with_teacher: Mapping[str, Comparison] = field(default_factory=dict)
    label_loyalty: Mapping[str, Estimate] = field(default_factory=dict)
    probability_loyalty: Mapping[str, Estimate] = field(default_factory=dict)
    calibration_error: Mapping[str, Estimate] = field(default_factory=dict)

    @property
    def tied(self) -> frozenset[str]:
        """The best and those that the test does not tell apart from it; empty where nothing could be tested."""
        tested = {label: one.adjusted for label, one in self.with_best.items() if one.adjusted is not None}
        if self.best is None or not tested:
            return frozenset()
        return frozenset({self.best, *(label for label, p_value in tested.items() if p_value >= LEVEL)})


@lru_cache(maxsize=128)
def compare(frame: Frame, task: str, split: str = "validation") -> Comparisons:
    """Read the predictions of a split once and draw from them all that needs them."""
    predictions = load_predictions(frame, task, split)
    teacher = teacher_label(frame)
    means = {
        label: float(np.mean(list(outcome.scores.values())))
        for label, outcome in outcomes(frame, task, split=split).items()
        if outcome.scores and label != teacher
    }
    best = max(means, key=lambda label: means[label]) if len(means) > 1 else None
    others = sorted(set(means) - {best})
    score = main_score(frame, task)
    of_teacher = predictions.get(teacher or "", {})
    drawn = _resampled_once(score, predictions)
    return Comparisons(
        best=best,
        with_best=_against(score, predictions, best, others, drawn) if best else {},
        with_teacher=_against(score, predictions, teacher, sorted(means), drawn) if teacher else {},
        label_loyalty=_over_seeds(predictions, of_teacher, label_loyalty),
        probability_loyalty=_over_seeds(predictions, of_teacher, probability_loyalty),
        calibration_error=_calibration(predictions),
    )


def load_predictions(frame: Frame, task: str, split: str) -> dict[str, dict[int, Predictions]]:
    """Read what every method said on a split, by seed; methods that left no predictions are not there."""
    cells = frame.cells[(frame.cells["task"] == task) & (frame.cells["predictions_path"] != "")]
    found: dict[str, dict[int, Predictions]] = {}
    for _, cell in cells[cells["status"] == "done"].iterrows():
        by_split = read_predictions(Path(cell["predictions_path"]))
        if split in by_split:
            found.setdefault(str(cell["label"]), {})[int(cell["seed"])] = by_split[split]
    return found


def _against(
    score: str,
    predictions: Mapping[str, BySeed],
    reference: str,
    others: Sequence[str],
    drawn: Mapping[int, Draws],
) -> dict[str, Comparison]:
    raw = {
        label: compare_predictions(score, predictions.get(label, {}), predictions.get(reference, {}), drawn)
        for label in others
    }
    adjusted = holm({label: found.p_value for label, found in raw.items() if isinstance(found, Difference)})
    return {
        label: Comparison(found, adjusted[label])
        if isinstance(found, Difference)
        else Comparison(None, None, found)
        for label, found in raw.items()
    }


def _over_seeds(
    predictions: Mapping[str, BySeed],
    teacher: BySeed,
    measure: Callable[[NDArray[np.float64], NDArray[np.float64]], float],
) -> dict[str, Estimate]:
    """Measure every student against the teacher of the same seed, where both are classifiers."""
    values: dict[str, list[float]] = {}
    for label, by_seed in predictions.items():
        for seed in sorted(set(by_seed) & set(teacher)):
            student, reference = by_seed[seed].logits, teacher[seed].logits
            if by_seed is not teacher and _classifies(student) and _classifies(reference):
                values.setdefault(label, []).append(measure(student, reference))
    return {label: mean_interval(found) for label, found in values.items()}


def _calibration(predictions: Mapping[str, BySeed]) -> dict[str, Estimate]:
    values: dict[str, list[float]] = {}
    for label, by_seed in predictions.items():
        for _, one in sorted(by_seed.items()):
            if _classifies(one.logits) and one.labels is not None:
                values.setdefault(label, []).append(calibration_error(one.logits, one.labels))
    return {label: mean_interval(found) for label, found in values.items()}


def _classifies(logits: NDArray[np.float64] | None) -> TypeGuard[NDArray[np.float64]]:
    return logits is not None and logits.shape[1] > 1


def compare_predictions(
    score: str, method: BySeed, reference: BySeed, drawn: Mapping[int, Draws] | None = None
) -> Difference | str:
    """Compare two methods on the seeds that both finished, or say why that is not possible.

    Args:
        score: What they are compared by.
        method: Its predictions.
        reference: Those of the other.
        drawn: Scores of resamples by the identity of the predictions, where they are known already.
    """
    seeds = sorted(set(method) & set(reference))
    if not seeds:
        return "no predictions of a seed that both finished"
    pairs = [(method[seed], reference[seed]) for seed in seeds]
    rows = pairs[0][0].row_ids
    if any(not np.array_equal(one.row_ids, rows) for pair in pairs for one in pair):
        return "their predictions are of different rows"
    values = [_row_values(score, one) for pair in pairs for one in pair]
    known = [value for value in values if value is not None]
    if len(known) == len(values):
        return compare_means(np.stack(known[0::2]), np.stack(known[1::2]))
    ones = [one for pair in pairs for one in pair]
    if all(_can_be_resampled(score, one) for one in ones):
        if not drawn or not all(id(one) in drawn for one in ones):
            drawn = _resampled(score, ones)
        scored = [drawn[id(one)] for one in ones]
        return compare_draws(np.stack(scored[0::2]), np.stack(scored[1::2]), len(rows))
    return f"the predictions hold no {score} by row"


def _resampled_once(score: str, predictions: Mapping[str, BySeed]) -> dict[int, Draws]:
    """Score the resamples of all predictions that more than one comparison needs."""
    ones = [one for by_seed in predictions.values() for one in by_seed.values()]
    if all(_row_values(score, one) is not None for one in ones):
        return {}
    return _resampled(score, [one for one in ones if _can_be_resampled(score, one)])


def _resampled(score: str, ones: Iterable[Predictions]) -> dict[int, Draws]:
    """Score the same resamples of rows for each of these predictions; the keys are their identities."""
    by_rows: dict[int, list[Predictions]] = defaultdict(list)
    for one in ones:
        by_rows[len(one.row_ids)].append(one)
    return {
        id(one): draws
        for rows, same in by_rows.items()
        for one, draws in zip(same, resample([_weighted(score, one) for one in same], rows), strict=True)
    }


def _can_be_resampled(score: str, one: Predictions) -> bool:
    return score in SCORES and one.logits is not None and one.labels is not None


def _row_values(score: str, one: Predictions) -> NDArray[np.float64] | None:
    if score in one.row_scores:
        return one.row_scores[score]
    if score == "accuracy" and one.logits is not None and one.labels is not None:
        return np.asarray(one.logits.argmax(axis=1) == one.labels, dtype=np.float64)
    return None


def _weighted(score: str, one: Predictions) -> partial[NDArray[np.float64]]:
    assert one.logits is not None
    assert one.labels is not None
    said = one.logits[:, 0] if one.logits.shape[1] == 1 else one.logits.argmax(axis=1)
    return partial(SCORES[score], said, one.labels)
