"""Equal tuning: every method has as many tries as the others, each scored on rows held out from its training rows.

A try is a cell with another end: it trains on the rest of the training rows, never sees the validation split, and its
checkpoint is not kept. The teacher is tuned first; the winner of its tries teaches the tries of the methods, since a
teacher that had seen the held-out rows would flatter whoever imitates it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from bench.holdout import HELD_OUT
from bench.plans import LEARNING_RATE, TEACHER, CellPlan, teacher_plan, tuned_cells, with_knobs
from bench.registry import methods
from results.record import CellRecord, Try, TuningRecord

if TYPE_CHECKING:
    from bench.matrix import Matrix, TuningPlan


@dataclass(frozen=True)
class Trials:
    """The tries of one method, or of the teacher, on one task.

    Attributes:
        plan: Of the method on that task, before any knob is tried.
        knobs: What each try sets, the best guess first.
        combinations: In the grid.
        tuning: What the matrix says.
    """

    plan: CellPlan
    knobs: Sequence[Mapping[str, Any]]
    combinations: int
    tuning: TuningPlan

    def plans(self) -> list[CellPlan]:
        """Return one plan a try."""
        return [
            replace(with_knobs(self.plan, knobs, self.tuning.max_steps), label=self._label(knobs))
            for knobs in self.knobs
        ]

    def settle(self, records: Sequence[CellRecord | None]) -> TuningRecord | None:
        """Choose the winner: the highest score, of equal ones the first; None where a try has not been made.

        Where none is done, the first guess stands, and whoever reads the record sees why.
        """
        if any(record is None for record in records):
            return None
        tries = [
            _try(record, knobs)
            for record, knobs in zip(records, self.knobs, strict=True)
            if record is not None
        ]
        scores = [float("-inf") if one.score is None else one.score for one in tries]
        return TuningRecord(
            task=self.plan.task.name,
            score=self.plan.task.main_score,
            held_out=self.tuning.held_out,
            max_steps=self.tuning.max_steps,
            allowed=self.tuning.tries,
            combinations=self.combinations,
            tries=tries,
            winner=scores.index(max(scores)),
        )

    def _label(self, knobs: Mapping[str, Any]) -> str:
        said = ", ".join(f"{key}={value}" for key, value in knobs.items())
        return f"{self.plan.label} with {said}" if said else self.plan.label


def matrix_trials(matrix: Matrix) -> dict[tuple[str, str], Trials]:
    """Return all tries of a matrix by task and label, on each task the teacher's first; none where it tunes nothing."""
    if matrix.tuning is None:
        return {}
    found: dict[tuple[str, str], Trials] = {}
    for plan in tuned_cells(matrix):
        for one in (teacher_plan(matrix, plan.task, plan.seed), plan):
            found.setdefault((one.task.name, one.label), trials(one, matrix.tuning))
    return found


def trials(plan: CellPlan, tuning: TuningPlan) -> Trials:
    """Plan the tries of a method: its grid, and the matrix's learning rates where the grid has none.

    Knobs that the matrix sets are not tried.
    """
    grid: dict[str, Sequence[Any]] = {LEARNING_RATE: tuning.learning_rates}
    if plan.method != TEACHER:
        grid |= methods.get(plan.method).grid
    found = combinations({knob: values for knob, values in grid.items() if knob not in plan.fixed})
    return Trials(plan, found[: tuning.tries], len(found), tuning)


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """List the combinations of a grid, the best guess first, then those that are few steps away from it.

    A step goes to the next value of one knob; of combinations as far away, those that move an earlier knob come first.
    """
    positions = product(*(range(len(values)) for values in grid.values()))
    ordered = sorted(positions, key=lambda steps: (sum(steps), [-step for step in steps]))
    return [
        {knob: values[step] for (knob, values), step in zip(grid.items(), steps, strict=True)}
        for steps in ordered
    ]


def settled(plan: CellPlan, tuning: TuningRecord) -> CellPlan:
    """Return a plan with the winner's knobs, except those that the matrix sets for it."""
    knobs = tuning.tries[tuning.winner].knobs
    return with_knobs(plan, {knob: value for knob, value in knobs.items() if knob not in plan.fixed})


def _try(record: CellRecord, knobs: Mapping[str, Any]) -> Try:
    scores = record.scores.get(HELD_OUT, {})
    return Try(
        id=record.id,
        knobs=dict(knobs),
        status=record.status,
        score=scores.get(record.main_score),
        steps=record.training.steps if record.training else 0,
        reason=record.reason,
    )
