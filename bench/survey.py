"""Hold a matrix against its run folder: which cells are done, missing, failed, skipped or stale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench import assets, checkpoints
from bench.cell import TEACHER, Job, encode_split
from bench.encoded import Encoded
from bench.errors import UserError
from bench.matrix import CellPlan, Matrix, cells, load_matrix
from bench.registry import methods
from bench.sources import Rows, load_rows
from bench.tasks.task import Task
from results.record import Budget, CellIdentity, CellRecord, canonical_json
from results.store import RunFolder

State = Literal["done", "missing", "failed", "skipped", "stale"]
Overwrite = Literal["never", "failed", "stale", "always"]

REDO: dict[Overwrite, frozenset[State]] = {
    "never": frozenset({"missing"}),
    "failed": frozenset({"missing", "failed"}),
    "stale": frozenset({"missing", "failed", "stale"}),
    "always": frozenset({"missing", "failed", "stale", "skipped", "done"}),
}


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix and where it stands.

    Attributes:
        label: What tables call the method; ``teacher`` for a teacher.
        task: Name of the task.
        seed: Its seed.
        job: How to make it; None while its teacher is missing, since its identity needs the teacher's weights.
        record: What it left, if anything.
        state: ``stale``: done, but the method's source has changed since.
        reason: Why it failed, was skipped, or cannot be made yet.
    """

    label: str
    task: str
    seed: int
    job: Job | None
    record: CellRecord | None
    state: State
    reason: str = ""

    @property
    def name(self) -> str:
        """What a person calls the cell."""
        return f"{self.label} on {self.task}, seed {self.seed}"


class Survey:
    """The cells of a matrix in one run folder.

    The checkpoint, the rows and the configurations are resolved here, before anything is written, so that bad input is
    refused at once.

    Args:
        matrix: What was asked for.
        folder: Where it is kept.
    """

    def __init__(self, matrix: Matrix, folder: RunFolder) -> None:
        self.matrix = matrix
        self.folder = folder
        self.plans = cells(matrix)
        self.data = Path(matrix.data).expanduser() if matrix.data else None
        self.cache = assets.cache_folder() / "tokenised"
        self.checkpoint = checkpoints.resolve(matrix.teacher)
        self.device, self.precision = choose_device(matrix.precision)
        self.rows = {plan.task.name: self._load(plan.task) for plan in one_each(self.plans)}

    def teachers(self) -> list[Cell]:
        """Return the teachers' cells, one for each task and seed."""
        budget = self.matrix.teacher_budget or self.matrix.budget
        return [
            self._cell(self._job(plan, TEACHER, self.checkpoint.sha256, budget, teacher_id=None))
            for plan in one_each(self.plans)
        ]

    def students(self) -> list[Cell]:
        """Return the students' cells; those whose teacher is not done have no job yet."""
        made = {(cell.task, cell.seed): cell for cell in self.teachers()}
        return [self._student(plan, made[plan.task.name, plan.seed]) for plan in self.plans]

    def encoded(self, task: Task, role: str) -> Encoded:
        """Return a task's tokenised split, as its cells see it."""
        rows = self.rows[task.name]
        tokenizer = checkpoints.load_tokenizer(self.checkpoint)
        return encode_split(task, rows, role, tokenizer, self.cache)

    def _student(self, plan: CellPlan, teacher: Cell) -> Cell:
        record = teacher.record
        if record is None or record.status != "done":
            reason = f"its teacher is {teacher.state}"
            return Cell(plan.label, plan.task.name, plan.seed, None, None, "missing", reason)
        budget = self.matrix.budget
        if plan.learning_rate is not None:
            budget = budget.model_copy(update={"learning_rate": plan.learning_rate})
        job = self._job(plan, plan.method, record.weights_sha256, budget, teacher_id=record.id)
        return self._cell(job)

    def _cell(self, job: Job) -> Cell:
        record = self.folder.record(job.cell_id)
        if not isinstance(record, CellRecord):
            return Cell(job.label, job.task.name, job.identity.seed, job, None, "missing")
        return Cell(job.label, job.task.name, job.identity.seed, job, record, state_of(record), record.reason)

    def _job(
        self, plan: CellPlan, method: str, teacher_sha256: str, budget: Budget, *, teacher_id: str | None
    ) -> Job:
        identity = CellIdentity(
            task=task_identity(plan.task),
            data=self.rows[plan.task.name].fingerprint,
            limit=self.matrix.limit,
            calibration_rows=self.matrix.calibration_rows if teacher_id else None,
            method=method,
            config=plan.config if teacher_id else {},
            teacher=teacher_sha256,
            budget=budget,
            seed=plan.seed,
            precision=self.precision,
        )
        return Job(
            identity=identity,
            task=plan.task,
            label=plan.label if teacher_id else TEACHER,
            checkpoint=self.matrix.teacher,
            teacher_id=teacher_id,
            folder=self.folder.path.resolve(),
            data=self.data,
            cache=self.cache,
            device=self.device,
            threads=self.matrix.executor.threads,
        )

    def _load(self, task: Task) -> Rows:
        checkpoints.require_room(self.checkpoint, task)
        rows = load_rows(task, data=self.data, limit=self.matrix.limit)
        if "train" not in rows.splits or len(rows.splits["train"]) == 0:
            raise UserError(
                f"task {task.name!r} has no training rows here, so no student can be trained on it"
            )
        return rows


def state_of(record: CellRecord) -> State:
    """Say where a recorded cell stands; a teacher is never stale, since it has no method."""
    if record.status == "done" and record.identity.method != TEACHER:
        known = record.identity.method in methods.names()
        if known and methods.source_sha256(record.identity.method) != record.source_sha256:
            return "stale"
    return record.status


def recorded_cells(folder: RunFolder) -> list[Cell]:
    """Hold a run folder's own matrix against its records, without needing its data or its models.

    Raises:
        UserError: Where the folder has no matrix.
    """
    if not folder.matrix_file.exists():
        raise UserError(f"{folder.path}: not a run folder (it has no matrix.yaml)")
    matrix = load_matrix(str(folder.matrix_file))
    records = [record for record in folder.records() if isinstance(record, CellRecord)]
    found = {
        _wanted(
            record.identity.task, record.identity.method, record.identity.config, record.identity.seed
        ): record
        for record in records
        if record.identity.limit == matrix.limit
    }
    plans = cells(matrix)
    teachers = [replace(plan, method=TEACHER, config={}, label=TEACHER) for plan in one_each(plans)]
    listed = []
    for plan in [*teachers, *plans]:
        record = found.get(_wanted(task_identity(plan.task), plan.method, plan.config, plan.seed))
        state = state_of(record) if record else "missing"
        reason = record.reason if record else ""
        listed.append(Cell(plan.label, plan.task.name, plan.seed, None, record, state, reason))
    return listed


def task_identity(task: Task) -> dict[str, Any]:
    """Return what of a task decides a cell: wherever its rows lie, their fingerprint says which they are."""
    return task.model_dump(mode="json", exclude={"source", "directory"})


def _wanted(task: dict[str, Any], method: str, config: dict[str, Any], seed: int) -> str:
    return canonical_json([task, method, config, seed])


def one_each(plans: Sequence[CellPlan]) -> list[CellPlan]:
    """Return the first plan of each task and seed: those need a teacher."""
    return list({(plan.task.name, plan.seed): plan for plan in reversed(plans)}.values())[::-1]


def to_make(cells: Sequence[Cell], overwrite: Overwrite) -> list[Job]:
    """Return the jobs that an overwrite strategy asks for."""
    return [cell.job for cell in cells if cell.job is not None and cell.state in REDO[overwrite]]


def choose_device(precision: str) -> tuple[str, Literal["fp32", "bf16"]]:
    """Pick the GPU where there is one, and bf16 autocast where ``auto`` may have it."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    if precision == "auto":
        return device, "bf16" if device == "cuda" and torch.cuda.is_bf16_supported() else "fp32"
    return device, "bf16" if precision == "bf16" else "fp32"
