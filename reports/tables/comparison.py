"""Is it noise? Every method against the teacher and against the best, and how loyal it is."""

from __future__ import annotations

from collections.abc import Mapping

from reports import captions
from reports.comparisons import Comparison, Comparisons, compare
from reports.entries import DASH, Entry, Group, Table, blank, linked, number, p_value, percent
from reports.outcomes import evaluation_splits, labels, main_score, outcomes, tasks, teacher_label
from reports.statistics import Estimate, mean_interval, permutation_floor
from results.frame import Frame

HEADINGS = (
    "method",
    "score",
    "retained (%)",
    "minus teacher",
    "p, teacher",
    "minus best",
    "p, best",
    "label loyalty (%)",
    "probability loyalty (%)",
    "calibration error (%)",
)
DIFFERENCES = (
    "Differences are points of 100 with their 95 % interval, from predictions paired by row and seed; both the choice "
    "of rows and the seeds count as chance. p is two-sided and corrected over the methods of a block (Holm)."
)
AGREEMENT = (
    "Retained: score over the teacher's at the same seed. Loyalty: share of rows with the teacher's choice, and 1 "
    "minus the Jensen-Shannon distance of the probabilities. Calibration error: expected, 15 bins; lower is better."
)


def comparison_tables(frame: Frame) -> list[Table]:
    """Draw one block a task and split; nothing where there is one method alone."""
    if len(labels(frame)) < 2:
        return []
    rows: list[tuple[Entry, ...]] = []
    groups: dict[int, Group] = {}
    for task in tasks(frame):
        for split in evaluation_splits(frame, task):
            groups[len(rows)] = Group(f"{task}, {split}: {main_score(frame, task)}", task)
            rows += _rows(frame, task, split)
    caption = (*captions.conditions(frame), *_notes(frame))
    return [
        Table("comparison", "Differences, and whether they are noise", HEADINGS, tuple(rows), caption, groups)
    ]


def retained(frame: Frame, task: str, split: str = "validation") -> dict[str, Estimate]:
    """Return the share of its teacher's score that a method keeps, mean over the seeds that both finished."""
    found = outcomes(frame, task, split=split)
    teacher = found[label].scores if (label := teacher_label(frame)) else {}
    shares = {
        label: [score / teacher[seed] for seed, score in outcome.scores.items() if teacher.get(seed, 0) > 0]
        for label, outcome in found.items()
    }
    return {label: mean_interval(values) for label, values in shares.items() if values}


def _rows(frame: Frame, task: str, split: str) -> list[tuple[Entry, ...]]:
    found, kept = compare(frame, task, split), retained(frame, task, split)
    teacher = teacher_label(frame)
    rows: list[tuple[Entry, ...]] = []
    for label, outcome in outcomes(frame, task, split=split).items():
        score = outcome.entry()
        rows.append(
            linked(
                (
                    Entry(label),
                    score,
                    _share(kept, label, "no teacher of a finished seed"),
                    *(
                        _own_row("the teacher")
                        if label == teacher
                        else _difference(found.with_teacher, label)
                    ),
                    *_against_best(found, label, teacher),
                    _share(found.label_loyalty, label, "no predictions to compare"),
                    _share(found.probability_loyalty, label, "no predictions to compare"),
                    _share(found.calibration_error, label, "no predictions of classes"),
                ),
                score.cells,
            )
        )
    return rows


def _against_best(found: Comparisons, label: str, teacher: str | None) -> tuple[Entry, Entry]:
    if label == teacher:
        return _own_row("the teacher")
    if found.best is None:
        return blank("no other student finished"), blank("no other student finished")
    return _own_row("the best") if label == found.best else _difference(found.with_best, label)


def _own_row(name: str) -> tuple[Entry, Entry]:
    return Entry(name), Entry(DASH)


def _difference(compared: Mapping[str, Comparison], label: str) -> tuple[Entry, Entry]:
    found = compared.get(label, Comparison(None, None, "no finished cell"))
    if found.difference is None or found.adjusted is None:
        return blank(found.reason), blank(found.reason)
    mean, low, high = (
        100 * value for value in (found.difference.mean, found.difference.low, found.difference.high)
    )
    shown = Entry(f"{number(mean)} [{number(low)}, {number(high)}]", mean, low, high, found.difference.seeds)
    return shown, p_value(found.adjusted)


def _share(estimates: Mapping[str, Estimate], label: str, why: str) -> Entry:
    return percent(estimates[label]) if label in estimates else blank(why)


def _notes(frame: Frame) -> list[str]:
    paired = sorted(
        {
            found.difference.seeds
            for task in tasks(frame)
            for split in evaluation_splits(frame, task)
            for against in (compare(frame, task, split).with_teacher, compare(frame, task, split).with_best)
            for found in against.values()
            if found.difference is not None
        }
    )
    sentences = [DIFFERENCES]
    if 1 in paired:
        sentences.append("With one seed the tests tell two checkpoints apart, not two methods.")
    if paired and (most := paired[-1]) > 1:
        sentences.append(
            f"An exact permutation test over the {most} seeds that a pair shares{' at most' * (len(paired) > 1)} could "
            f"not go below p = {permutation_floor(most):.4g}."
        )
    return [*sentences, AGREEMENT]
