"""Hold a matrix against its run folder: which cells are done, missing, failed, skipped or stale."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from bench import assets, checkpoints
from bench.cell import Job, encode_split
from bench.encoded import Encoded
from bench.errors import UserError, unknown
from bench.executors.gpus import places
from bench.latency.workloads import Workload
from bench.matrix import Matrix
from bench.plans import TEACHER, CellPlan, cells, one_each, teacher_plan, tuned_on
from bench.registry import methods, runtimes
from bench.selection import Part, select
from bench.sources import Rows, load_rows
from bench.tasks.task import Task
from bench.tuning import Trials, matrix_trials, settled
from results.record import CellIdentity, CellRecord, HeldOut, TuningRecord
from results.store import RunFolder

State = Literal["done", "missing", "failed", "skipped", "stale"]
Overwrite = Literal["never", "failed", "stale", "always"]

NOT_TUNED = "its tuning is not done"
REDO: dict[Overwrite, frozenset[State]] = {
    "never": frozenset({"missing"}),
    "failed": frozenset({"missing", "failed"}),
    "stale": frozenset({"missing", "failed", "stale"}),
    "always": frozenset({"missing", "failed", "stale", "skipped", "done"}),
}


@dataclass(frozen=True)
class Cell:
    """One cell of the matrix, or a try of its tuning, and where it stands.

    Attributes:
        plan: What it is.
        job: How to make it; None while its teacher or its tuning is missing, since its identity needs them.
        record: What it left, if anything.
        state: ``stale``: done, but the method's source has changed since.
        reason: Why it failed, was skipped, or cannot be made yet.
    """

    plan: CellPlan
    job: Job | None
    record: CellRecord | None
    state: State
    reason: str = ""

    @property
    def label(self) -> str:
        """What tables call the method; ``teacher`` for a teacher."""
        return self.plan.label

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.plan.task.name

    @property
    def seed(self) -> int:
        """Seed of the cell."""
        return self.plan.seed

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
        only: The cells that matter, and the tries that decide for them; none means all.
    """

    def __init__(self, matrix: Matrix, folder: RunFolder, only: Sequence[Part] = ()) -> None:
        self.matrix = matrix
        self.folder = folder
        self.plans = select(cells(matrix), only)
        self.data = Path(matrix.data).expanduser() if matrix.data else None
        self.cache = assets.cache_folder() / "tokenised"
        self.checkpoint = checkpoints.resolve(matrix.teacher)
        self.device, self.precision = choose_device(matrix.precision)
        self._check()
        self.rows = {plan.task.name: self._load(plan.task) for plan in one_each(self.plans)}
        deciding = {tuned_on(matrix, plan.task).name for plan in one_each(self.plans)}
        self.trials = {key: trials for key, trials in matrix_trials(matrix).items() if key[0] in deciding}
        self.train_rows = {
            trials.plan.task.name: self._load(trials.plan.task, roles=("train",))
            for trials in self.trials.values()
        }

    def teacher_tries(self) -> list[Cell]:
        """Return the tries of the teacher's fine-tuning on every task that is tuned on."""
        return [
            cell
            for (_, label), trials in self.trials.items()
            if label == TEACHER
            for cell in self._tries(trials, None)
        ]

    def student_tries(self) -> list[Cell]:
        """Return the tries of the methods; those whose teacher is not chosen yet have no job."""
        teachers = self._tried_teachers()
        return [
            cell
            for (task, label), trials in self.trials.items()
            if label != TEACHER
            for cell in self._tries(trials, teachers[task])
        ]

    def teachers(self) -> list[Cell]:
        """Return the teachers' cells, one for each task and seed; those whose tuning is not done have no job yet."""
        decisions = self._decisions()
        plans = [teacher_plan(self.matrix, plan.task, plan.seed) for plan in one_each(self.plans)]
        return [self._tuned(plan, None, decisions) for plan in plans]

    def students(self) -> list[Cell]:
        """Return the students' cells; those whose teacher or tuning is not done have no job yet."""
        made = {(cell.task, cell.seed): cell for cell in self.teachers()}
        decisions = self._decisions()
        return [self._tuned(plan, made[plan.task.name, plan.seed], decisions) for plan in self.plans]

    def encoded(self, task: Task, role: str) -> Encoded:
        """Return a task's tokenised split, as its cells see it."""
        rows = self.rows.get(task.name) or self.train_rows[task.name]
        tokenizer = checkpoints.load_tokenizer(self.checkpoint)
        return encode_split(task, rows, role, tokenizer, self.cache)

    def _tries(self, trials: Trials, teacher: Cell | None) -> list[Cell]:
        return [self._cell(plan, teacher, held_out=trials.tuning.held_out) for plan in trials.plans()]

    def _tried_teachers(self) -> dict[str, Cell]:
        """Return, for every task that is tuned on, the try that won: the teacher of the methods' tries."""
        found = {}
        for (task, label), trials in self.trials.items():
            if label == TEACHER:
                tries = self._tries(trials, None)
                decision = trials.settle([cell.record for cell in tries])
                found[task] = tries[decision.winner] if decision else missing(trials.plan, NOT_TUNED)
        return found

    def _decisions(self) -> dict[tuple[str, str], TuningRecord | None]:
        """Return what the tries decide, by task and label; None where some are still to be made."""
        teachers = self._tried_teachers()
        return {
            (task, label): trials.settle(
                [cell.record for cell in self._tries(trials, None if label == TEACHER else teachers[task])]
            )
            for (task, label), trials in self.trials.items()
        }

    def _tuned(
        self, plan: CellPlan, teacher: Cell | None, decisions: Mapping[tuple[str, str], TuningRecord | None]
    ) -> Cell:
        """Return the cell of a plan, with the knobs that its tuning decided for."""
        if not decisions:
            return self._cell(plan, teacher)
        decision = decisions[tuned_on(self.matrix, plan.task).name, plan.label]
        if decision is None:
            return missing(plan, NOT_TUNED)
        return self._cell(settled(plan, decision), teacher, tuning=decision)

    def _cell(
        self,
        plan: CellPlan,
        teacher: Cell | None,
        *,
        held_out: HeldOut | None = None,
        tuning: TuningRecord | None = None,
    ) -> Cell:
        """Hold a plan against the folder; a student's needs its teacher."""
        source, teacher_id = self.checkpoint.sha256, None
        if teacher is not None:
            if teacher.record is None or teacher.record.status != "done":
                return missing(plan, f"its teacher is {teacher.state}")
            source, teacher_id = teacher.record.weights_sha256, teacher.record.id
        rows = self.train_rows if held_out else self.rows
        identity = CellIdentity(
            task=task_identity(plan.task),
            data=rows[plan.task.name].fingerprint,
            limit=self.matrix.limit,
            calibration_rows=self.matrix.calibration_rows if teacher else None,
            method=plan.method,
            config=plan.config,
            teacher=source,
            budget=plan.budget,
            seed=plan.seed,
            precision=self.precision,
            held_out=held_out,
        )
        job = Job(
            identity=identity,
            task=plan.task,
            label=plan.label,
            checkpoint=self.matrix.teacher,
            teacher_id=teacher_id,
            folder=self.folder.path.resolve(),
            data=self.data,
            cache=self.cache,
            device=self.device,
            threads=self.matrix.executor.threads,
            tuning=tuning,
        )
        record = self.folder.record(job.cell_id)
        if isinstance(record, CellRecord) and record.status == "done":
            return Cell(plan, job, record, state_of(record), record.reason)
        if teacher_id is not None and not self.folder.model_folder(teacher_id).is_dir():
            if held_out is not None and isinstance(record, CellRecord):  # made elsewhere; it decides as it is
                return Cell(plan, None, record, record.status, record.reason)
            return missing(plan, f"the checkpoint of its teacher, cell {teacher_id}, is not in this folder")
        if isinstance(record, CellRecord):
            return Cell(plan, job, record, state_of(record), record.reason)
        return replace(missing(plan, ""), job=job)

    def _check(self) -> None:
        """Refuse GPUs, runtimes and workloads that are not there before anything is trained."""
        places(self.matrix.executor)
        plans = cells(self.matrix)
        tasks = dict.fromkeys(plan.task.name for plan in plans)
        named = dict.fromkeys(name for plan in plans for name in (plan.method, plan.label))
        for plan in self.matrix.latency:
            for runtime in plan.runtimes:
                runtimes.entry(runtime)
            for workload in plan.workloads:
                Workload.parse(workload)
            if strange := set(plan.tasks) - set(tasks):
                raise unknown("task", min(strange), tasks, where="latency.tasks")
            if strange := set(plan.methods) - set(named):
                raise unknown("method", min(strange), named, where="latency.methods")

    def _load(self, task: Task, roles: Sequence[str] | None = None) -> Rows:
        checkpoints.require_room(self.checkpoint, task)
        rows = load_rows(task, data=self.data, limit=self.matrix.limit, roles=roles)
        if "train" not in rows.splits or len(rows.splits["train"]) == 0:
            raise UserError(
                f"task {task.name!r} has no training rows here, so no student can be trained on it"
            )
        return rows


def missing(plan: CellPlan, reason: str) -> Cell:
    """Return the cell of a plan that cannot be made yet, or has not been."""
    return Cell(plan, None, None, "missing", reason)


def state_of(record: CellRecord) -> State:
    """Say where a recorded cell stands; a teacher is never stale, since it has no method."""
    if record.status == "done" and record.identity.method != TEACHER:
        known = record.identity.method in methods.names()
        if known and methods.source_sha256(record.identity.method) != record.source_sha256:
            return "stale"
    return record.status


def task_identity(task: Task) -> dict[str, Any]:
    """Return what of a task decides a cell: wherever its rows lie, their fingerprint says which they are."""
    return task.model_dump(mode="json", exclude={"source", "directory"})


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
