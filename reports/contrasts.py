"""Two methods of one run, task by task: what a claim that one is better than the other rests on."""

from __future__ import annotations

import difflib

from reports import captions
from reports.comparisons import compare_predictions, load_predictions
from reports.entries import DASH, Entry, Table, blank, number, p_value
from reports.outcomes import evaluation_splits, labels, main_score, outcomes, tasks
from reports.paired import Difference
from reports.statistics import holm, mean_interval
from results.frame import Frame

LEVEL = 0.05
TESTED = (
    "Differences are points of 100 with their 95 % interval, from predictions paired by row and seed; both the choice "
    "of rows and the seeds count as chance. p is two-sided and corrected over the rows of this table (Holm)."
)
OVER_TASKS = (
    "Over tasks: mean of the differences on the validation splits with Student's t-interval, tasks as the sample; told "
    "apart: corrected p below 0.05."
)


def contrast(frame: Frame, method: str, reference: str) -> Table:
    """Compare a method with another on every task and split that both finished.

    Raises:
        ValueError: Where the run has no such method, or no task that both finished.
    """
    for label in (method, reference):
        if label not in labels(frame):
            close = difflib.get_close_matches(label, labels(frame), n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ";"
            raise ValueError(f"no method {label!r}{hint} there: {', '.join(labels(frame))}")
    found = {
        (task, split): _difference(frame, task, split, method, reference)
        for task in tasks(frame)
        for split in evaluation_splits(frame, task)
        if all(outcomes(frame, task, split=split)[label].scores for label in (method, reference))
    }
    if not found:
        raise ValueError(f"{method!r} and {reference!r} finished no task together")
    tested = {block: one for block, one in found.items() if isinstance(one, Difference)}
    adjusted = holm({block: one.p_value for block, one in tested.items()})
    rows = [
        (
            Entry(f"{task}, {split}"),
            Entry(main_score(frame, task)),
            *(outcomes(frame, task, split=split)[label].entry() for label in (method, reference)),
            *_shown(one, adjusted.get((task, split))),
        )
        for (task, split), one in found.items()
    ]
    whole = {task: one for (task, split), one in tested.items() if split == "validation"}
    if len(whole) > 1:
        apart = [task for task in whole if adjusted[task, "validation"] < LEVEL]
        rows.append(_over_tasks(whole, apart))
    return Table(
        name="contrast",
        title=f"{method} minus {reference}",
        headings=("task, split", "score", method, reference, "difference", "p"),
        rows=tuple(rows),
        caption=(
            *captions.smoke(frame),
            *captions.training(frame),
            captions.SCORES,
            TESTED,
            *([OVER_TASKS] if len(whole) > 1 else []),
        ),
    )


def _difference(frame: Frame, task: str, split: str, method: str, reference: str) -> Difference | str:
    predictions = load_predictions(frame, task, split)
    return compare_predictions(
        main_score(frame, task), predictions.get(method, {}), predictions.get(reference, {})
    )


def _shown(found: Difference | str, adjusted: float | None) -> tuple[Entry, Entry]:
    if not isinstance(found, Difference) or adjusted is None:
        return blank(str(found)), blank(str(found))
    mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
    shown = Entry(f"{number(mean)} [{number(low)}, {number(high)}]", mean, low, high, found.seeds)
    return shown, p_value(adjusted)


def _over_tasks(differences: dict[str, Difference], apart: list[str]) -> tuple[Entry, ...]:
    mean = mean_interval([100 * one.mean for one in differences.values()])
    higher = sum(one.mean > 0 for one in differences.values())
    better = sum(differences[task].mean > 0 for task in apart)
    interval = (
        f"[{number(mean.low)}, {number(mean.high)}]" if mean.low is not None and mean.high is not None else ""
    )
    return (
        Entry(f"over {len(differences)} tasks"),
        Entry(DASH),
        Entry(f"higher on {higher}, told apart on {better}"),
        Entry(f"higher on {len(differences) - higher}, told apart on {len(apart) - better}"),
        Entry(f"{number(mean.mean)} {interval}".strip(), mean.mean, mean.low, mean.high, mean.n),
        Entry(DASH),
    )
