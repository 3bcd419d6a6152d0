"""Scores of a method over seeds, and why a seed has none."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import pandas as pd

from reports.entries import Entry, percent
from reports.statistics import mean_interval
from results.frame import TEACHER, Frame


@dataclass(frozen=True)
class Outcome:
    """What became of one method on one task.

    Attributes:
        scores: Seed -> value of the finished cells.
        cells: Ids of all its cells.
        reasons: (seeds, what happened) of those that did not finish.
    """

    scores: dict[int, float]
    cells: tuple[str, ...]
    reasons: tuple[tuple[tuple[int, ...], str], ...]

    def entry(self) -> Entry:
        """Show mean, interval and n, or the word for what happened, with the reasons as a note."""
        note = "; ".join(f"seed {', '.join(map(str, seeds))}: {why}" for seeds, why in self.reasons)
        if self.scores:
            return percent(mean_interval(list(self.scores.values())), cells=self.cells, note=note)
        words = dict.fromkeys(why.partition(":")[0] for _, why in self.reasons)
        return Entry(", ".join(words) or "missing", note=note, cells=self.cells)


def tasks(frame: Frame) -> list[str]:
    """Return the tasks in the order of their names."""
    return sorted(frame.cells["task"].unique())


def labels(frame: Frame) -> list[str]:
    """Return the methods in the order of the table: the teacher, then by mean main score, best first.

    Those that did not finish every task come after those that did.
    """
    cells = frame.cells
    done = cells[cells["status"] == "done"]
    by_task = done.groupby(["label", "task"])["main_value"].mean().groupby("label").agg(["count", "mean"])
    rank = {str(label): (-int(row["count"]), -float(row["mean"])) for label, row in by_task.iterrows()}
    teachers = set(cells.loc[cells["method"] == TEACHER, "label"])
    return sorted(
        cells["label"].unique(), key=lambda name: (name not in teachers, *rank.get(name, (0, 0.0)), name)
    )


def teacher_label(frame: Frame) -> str | None:
    """Return what tables call the teacher, or None where the frame has no cell of it."""
    found = frame.cells.loc[frame.cells["method"] == TEACHER, "label"].unique()
    return str(found[0]) if len(found) else None


def main_score(frame: Frame, task: str) -> str:
    """Return the name of the score that ranks on a task."""
    return str(frame.cells.loc[frame.cells["task"] == task, "main_score"].iloc[0])


def evaluation_splits(frame: Frame, task: str) -> list[str]:
    """Return the splits on which the task was scored, ``validation`` first."""
    ids = frame.cells.loc[frame.cells["task"] == task, "cell_id"]
    found = frame.scores.loc[frame.scores["cell_id"].isin(ids), "split"].unique()
    return sorted(found, key=lambda split: (split != "validation", split)) or ["validation"]


def scores_of(frame: Frame, task: str) -> list[str]:
    """Return the scores of a task, the main one first."""
    cells = frame.cells[frame.cells["task"] == task]
    main = main_score(frame, task)
    found = frame.scores.loc[frame.scores["cell_id"].isin(cells["cell_id"]), "score"].unique()
    return sorted({main, *found}, key=lambda score: (score != main, score))


def outcomes(
    frame: Frame, task: str, *, split: str = "validation", score: str | None = None
) -> dict[str, Outcome]:
    """Collect every method's scores on one split of a task; without ``score``, its main score."""
    cells = frame.cells[frame.cells["task"] == task]
    score = score or main_score(frame, task)
    scores = frame.scores[(frame.scores["split"] == split) & (frame.scores["score"] == score)]
    values = scores.set_index("cell_id")["value"]
    cells = cells.assign(value=cells["cell_id"].map(values))
    seeds = sorted(int(seed) for seed in cells["seed"].unique())
    groups = dict(tuple(cells.groupby("label")))
    return {label: _outcome(groups.get(label), seeds) for label in labels(frame)}


def _outcome(cells: pd.DataFrame | None, seeds: Iterable[int]) -> Outcome:
    if cells is None:
        return Outcome({}, (), ((tuple(seeds), "missing: no record on this task"),))
    scores: dict[int, float] = {}
    happened = dict.fromkeys(seeds, "missing: no record of this seed")
    for _, cell in cells.sort_values("seed").iterrows():
        seed = int(cell["seed"])
        if cell["status"] != "done":
            happened[seed] = f"{cell['status']}: {cell['reason']}"
        elif pd.isna(cell["value"]):
            happened[seed] = "missing: not scored on it"
        else:
            scores[seed] = float(cell["value"])
            del happened[seed]
    reasons: dict[str, tuple[int, ...]] = {}
    for seed, why in happened.items():
        reasons[why] = (*reasons.get(why, ()), seed)
    return Outcome(scores, tuple(cells["cell_id"]), tuple((group, why) for why, group in reasons.items()))
