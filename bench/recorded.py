"""Hold a run folder's own matrix against its records, without needing its data, its models or their packages."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from bench.errors import UserError
from bench.matrix import Matrix, load_matrix
from bench.plans import CellPlan, cells, one_each, teacher_plan
from bench.survey import Cell, missing, state_of, task_identity
from bench.tuning import matrix_trials
from results.record import CellRecord, canonical_json
from results.store import RunFolder


def recorded_cells(folder: RunFolder) -> list[Cell]:
    """Return the teachers' and students' cells of a run folder.

    Raises:
        UserError: Where the folder has no matrix.
    """
    matrix = _matrix(folder)
    tuned = matrix.tuning is not None  # its knobs are known once it is done, so its label tells it
    found = {
        _key(record.identity.task, record.label if tuned else record.identity.config, record): record
        for record in _records(folder, matrix)
        if record.identity.held_out is None
    }
    plans = cells(matrix)
    teachers = [teacher_plan(matrix, plan.task, plan.seed) for plan in one_each(plans)]
    return [
        _cell(plan, found.get(_key(task_identity(plan.task), plan.label if tuned else plan.config, plan)))
        for plan in [*teachers, *plans]
    ]


def recorded_tries(folder: RunFolder) -> list[Cell]:
    """Return the tries of a run folder's tuning; of those that are done, the reason says which won.

    Raises:
        UserError: Where the folder has no matrix.
    """
    matrix = _matrix(folder)
    found = {
        _key(record.identity.task, record.label, record): record
        for record in sorted(_records(folder, matrix), key=lambda record: record.finished)
        if matrix.tuning and record.identity.held_out == matrix.tuning.held_out
    }
    listed = []
    for trials in matrix_trials(matrix).values():
        plans = trials.plans()
        records = [found.get(_key(task_identity(plan.task), plan.label, plan)) for plan in plans]
        tries = [_cell(plan, record) for plan, record in zip(plans, records, strict=True)]
        decision = trials.settle(records)
        if decision and tries[decision.winner].state != "failed":
            tries[decision.winner] = replace(tries[decision.winner], reason="won")
        listed += tries
    return listed


def _matrix(folder: RunFolder) -> Matrix:
    if not folder.matrix_file.exists():
        raise UserError(f"{folder.path}: not a run folder (it has no matrix.yaml)")
    return load_matrix(str(folder.matrix_file))


def _records(folder: RunFolder, matrix: Matrix) -> list[CellRecord]:
    records = [record for record in folder.records() if isinstance(record, CellRecord)]
    return [record for record in records if record.identity.limit == matrix.limit]


def _key(task: dict[str, Any], told_by: Any, one: CellRecord | CellPlan) -> str:
    method, seed = (
        (one.method, one.seed) if isinstance(one, CellPlan) else (one.identity.method, one.identity.seed)
    )
    return canonical_json([task, method, told_by, seed])


def _cell(plan: CellPlan, record: CellRecord | None) -> Cell:
    if record is None:
        return missing(plan, "")
    return replace(missing(plan, record.reason), record=record, state=state_of(record))
