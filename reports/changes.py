"""Two runs side by side: what changed, by how much, and whether it is noise."""

from __future__ import annotations

from collections.abc import Mapping

from reports import captions
from reports.comparisons import BySeed, compare_predictions, load_predictions
from reports.entries import DASH, Entry, Group, Table, blank, number, p_value, percent, quantity, ratio
from reports.outcomes import Outcome, evaluation_splits, labels, main_score, outcomes, tasks
from reports.paired import Difference
from reports.statistics import holm, mean_interval
from reports.timings import headline, speedup
from results.frame import Frame

DIFFERENCE = (
    "A difference is the second run minus the first, in points of 100 with its 95 % interval. It is tested where both "
    "runs kept predictions of the same rows at the same seeds; p is two-sided and corrected over the table (Holm)."
)
SPEEDS = "Speed-ups are each run's own, to its own teacher; from two environments they say nothing about each other."


def changes(before: Frame, after: Frame, *, names: tuple[str, str] = ("first", "second")) -> Table:
    """Compare every method on every task and split of two runs.

    Raises:
        ValueError: Where the runs have no task in common.
    """
    shared = [task for task in tasks(before) if task in tasks(after)]
    if not shared:
        raise ValueError(
            f"nothing to compare: {names[0]} has the tasks {', '.join(tasks(before))}, "
            f"{names[1]} has {', '.join(tasks(after))}"
        )
    blocks = [(task, split) for task in shared for split in evaluation_splits(before, task)]
    tested = {block: _differences(before, after, *block) for block in blocks}
    raw: dict[tuple[str, str, str], float] = {
        (*block, label): found.p_value
        for block, by_label in tested.items()
        for label, found in by_label.items()
        if isinstance(found, Difference)
    }
    adjusted = holm(raw)
    rows: list[tuple[Entry, ...]] = []
    groups: dict[int, Group] = {}
    for task, split in blocks:
        groups[len(rows)] = Group(f"{task}, {split}: {main_score(before, task)}", task)
        old, new = outcomes(before, task, split=split), outcomes(after, task, split=split)
        for label in dict.fromkeys([*labels(before), *labels(after)]):
            found = tested[task, split].get(label, "")
            shown = _difference(old.get(label), new.get(label), found, adjusted.get((task, split, label)))
            speeds = (_speed(before, label), _speed(after, label))
            sizes = (_size(before, task, label), _size(after, task, label))
            rows.append((Entry(label), _score(old, label), _score(new, label), *shown, *speeds, *sizes))
    measured = ("score", "speed-up", "effective encoder parameters (M)")
    headings = [f"{what}, {name}" for what in measured for name in names]
    conditions = [
        f"{name}: {sentence}"
        for name, frame in zip(names, (before, after), strict=True)
        for sentence in captions.conditions(frame)
    ]
    return Table(
        name="changes",
        title=f"{names[0]} and {names[1]}",
        headings=("method", *headings[:2], "difference", "p", *headings[2:]),
        rows=tuple(rows),
        caption=(*conditions, captions.SCORES, DIFFERENCE, SPEEDS),
        groups=groups,
    )


def _differences(before: Frame, after: Frame, task: str, split: str) -> dict[str, Difference | str]:
    old, new = load_predictions(before, task, split), load_predictions(after, task, split)
    none: BySeed = {}
    score = main_score(before, task)
    return {
        label: compare_predictions(score, new.get(label, none), old.get(label, none))
        for label in {*old, *new}
    }


def _difference(
    old: Outcome | None, new: Outcome | None, found: Difference | str, adjusted: float | None
) -> tuple[Entry, Entry]:
    if isinstance(found, Difference) and adjusted is not None:
        mean, low, high = (100 * value for value in (found.mean, found.low, found.high))
        shown = Entry(f"{number(mean)} [{number(low)}, {number(high)}]", mean, low, high, found.seeds)
        return shown, p_value(adjusted)
    if old is None or new is None or not old.scores or not new.scores:
        return Entry(DASH), Entry(DASH)
    plain = 100 * (
        mean_interval(list(new.scores.values())).mean - mean_interval(list(old.scores.values())).mean
    )
    reason = f"not tested: {found or 'no predictions'}"
    return Entry(number(plain), plain, note=reason), blank(reason)


def _score(found: Mapping[str, Outcome], label: str) -> Entry:
    if label not in found:
        return blank("not in this run")
    outcome = found[label]
    return percent(mean_interval(list(outcome.scores.values()))) if outcome.scores else outcome.entry()


def _speed(frame: Frame, label: str) -> Entry:
    setting = headline(frame)
    estimate = speedup(frame, setting, label) if setting else None
    return Entry(DASH) if estimate is None else ratio(estimate)


def _size(frame: Frame, task: str, label: str) -> Entry:
    cells = frame.cells[(frame.cells["task"] == task) & (frame.cells["label"] == label)]
    known = cells["effective_encoder_parameters"].dropna()
    return quantity(known, unit=1e6) if len(known) else Entry(DASH)
