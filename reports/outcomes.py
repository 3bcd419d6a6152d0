"""Scores of a method over seeds, and why a seed has none."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from reports.entries import Entry, percent
from reports.statistics import mean_interval
from results.frame import TEACHER, Frame

DIAGNOSTIC = frozenset({"ax"})  # of GLUE's server: rows without public labels, no part of its average
FRAMES = 4  # frames whose outlines are kept: a report, and two to compare


@dataclass(frozen=True)
class Cell:
    """What an outcome needs to know of a cell."""

    cell_id: str
    seed: int
    status: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What became of one method on one task.

    Attributes:
        scores: Seed -> value of the finished cells.
        cells: Ids of all its cells.
        reasons: (seeds, what happened) of those that did not finish.
    """

    scores: Mapping[int, float]
    cells: tuple[str, ...]
    reasons: tuple[tuple[tuple[int, ...], str], ...]

    def entry(self) -> Entry:
        """Show mean, interval and n, or the word for what happened, with the reasons as a note."""
        note = "; ".join(f"seed {', '.join(map(str, seeds))}: {why}" for seeds, why in self.reasons)
        if self.scores:
            return percent(mean_interval(list(self.scores.values())), cells=self.cells, note=note)
        words = dict.fromkeys(why.partition(":")[0] for _, why in self.reasons)
        return Entry(", ".join(words), note=note, cells=self.cells)


@dataclass(frozen=True)
class _Outline:
    """The cells of a frame by task and method, and its scores: built once, asked often."""

    cells: Mapping[tuple[str, str], Sequence[Cell]]
    seeds: Mapping[str, Sequence[int]]
    values: Mapping[tuple[str, str, str], float]
    splits: Mapping[str, set[str]]
    scores: Mapping[str, set[str]]
    main_scores: Mapping[str, str]


@lru_cache(maxsize=FRAMES)
def _outline(frame: Frame) -> _Outline:
    by_method: dict[tuple[str, str], list[Cell]] = defaultdict(list)
    seeds, splits, scores = defaultdict(set), defaultdict(set), defaultdict(set)
    columns = [frame.cells[name] for name in ("task", "label", "cell_id", "seed", "status", "reason")]
    for task, label, cell_id, seed, status, reason in zip(*columns, strict=True):
        by_method[task, label].append(Cell(cell_id, int(seed), status, reason))
        seeds[task].add(int(seed))
    task_of = dict(zip(frame.cells["cell_id"], frame.cells["task"], strict=True))
    values = {}
    columns = [frame.scores[name] for name in ("cell_id", "split", "score", "value")]
    for cell_id, split, score, value in zip(*columns, strict=True):
        values[cell_id, split, score] = float(value)
        splits[task_of[cell_id]].add(split)
        scores[task_of[cell_id]].add(score)
    return _Outline(
        cells=by_method,
        seeds={task: sorted(found) for task, found in seeds.items()},
        values=values,
        splits=splits,
        scores=scores,
        main_scores=dict(zip(frame.cells["task"], frame.cells["main_score"], strict=True)),
    )


def tasks(frame: Frame) -> list[str]:
    """Return the tasks in the order of their names."""
    return sorted(_outline(frame).seeds)


@lru_cache(maxsize=FRAMES)
def averaged_tasks(frame: Frame) -> tuple[str, ...]:
    """Return the tasks that an average, a rank or an order is taken over: all but diagnostics of other tasks."""
    name_of = dict(zip(frame.cells["task"], frame.cells["task_name"], strict=True))
    return tuple(task for task in tasks(frame) if name_of[task] not in DIAGNOSTIC)


@lru_cache(maxsize=FRAMES)
def labels(frame: Frame) -> tuple[str, ...]:
    """Return the methods in the order of the table: the teacher, then by mean main score, best first.

    Those that did not finish every task come after those that did.
    """
    cells = frame.cells
    done = cells[(cells["status"] == "done") & cells["task"].isin(averaged_tasks(frame) or tasks(frame))]
    by_task = done.groupby(["label", "task"])["main_value"].mean().groupby("label").agg(["count", "mean"])
    rank = {str(label): (-int(row["count"]), -float(row["mean"])) for label, row in by_task.iterrows()}
    teacher = teacher_label(frame)
    return tuple(
        sorted(cells["label"].unique(), key=lambda name: (name != teacher, *rank.get(name, (0, 0.0)), name))
    )


@lru_cache(maxsize=FRAMES)
def teacher_label(frame: Frame) -> str | None:
    """Return what tables call the teacher, or None where the frame has no cell of it."""
    found = frame.cells.loc[frame.cells["method"] == TEACHER, "label"].unique()
    return str(found[0]) if len(found) else None


def main_score(frame: Frame, task: str) -> str:
    """Return the name of the score that ranks on a task."""
    return _outline(frame).main_scores[task]


def evaluation_splits(frame: Frame, task: str) -> list[str]:
    """Return the splits on which the task was scored, ``validation`` first."""
    found = _outline(frame).splits.get(task, {"validation"})
    return sorted(found, key=lambda split: (split != "validation", split))


def scores_of(frame: Frame, task: str) -> list[str]:
    """Return the scores of a task, the main one first."""
    main = main_score(frame, task)
    return sorted({main, *_outline(frame).scores.get(task, ())}, key=lambda score: (score != main, score))


@lru_cache(maxsize=256)
def outcomes(
    frame: Frame, task: str, *, split: str = "validation", score: str | None = None
) -> Mapping[str, Outcome]:
    """Collect every method's scores on one split of a task; without ``score``, its main score."""
    outline = _outline(frame)
    score = score or outline.main_scores[task]
    found = {}
    for label in labels(frame):
        cells = sorted(outline.cells.get((task, label), ()), key=lambda cell: cell.seed)
        values = {cell.seed: outline.values.get((cell.cell_id, split, score)) for cell in cells}
        found[label] = _outcome(cells, values, outline.seeds[task])
    return found


def task_scores(frame: Frame, task: str, label: str) -> dict[int, float]:
    """Return one score a seed: the main score, or its mean over several splits, as GLUE counts MNLI's two."""
    splits = [outcomes(frame, task, split=split)[label].scores for split in evaluation_splits(frame, task)]
    seeds = set.intersection(*(set(scores) for scores in splits))
    return {seed: sum(scores[seed] for scores in splits) / len(splits) for seed in sorted(seeds)}


def _outcome(cells: Sequence[Cell], values: Mapping[int, float | None], seeds: Sequence[int]) -> Outcome:
    if not cells:
        return Outcome({}, (), ((tuple(seeds), "missing: no record on this task"),))
    scores: dict[int, float] = {}
    happened = dict.fromkeys(seeds, "missing: no record of this seed")
    for cell in cells:
        value = values[cell.seed]
        if cell.status != "done":
            happened[cell.seed] = f"{cell.status}: {cell.reason}"
        elif value is None:
            happened[cell.seed] = "missing: not scored on it"
        else:
            scores[cell.seed] = value
            del happened[cell.seed]
    reasons: dict[str, tuple[int, ...]] = {}
    for seed, why in happened.items():
        reasons[why] = (*reasons.get(why, ()), seed)
    identities = tuple(cell.cell_id for cell in cells)
    return Outcome(scores, identities, tuple((group, why) for why, group in reasons.items()))
