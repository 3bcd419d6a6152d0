"""Find the checkpoints that have experts to measure, and refuse what has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench import checkpoints
from bench.errors import UserError, unknown
from bench.matrix import Choice, Matrix, load_matrix, parse_choice
from bench.plans import find_task
from bench.registry import anatomies
from bench.survey import task_identity
from bench.tasks.task import Task
from results.record import CellIdentity, CellRecord
from results.store import RunFolder


@dataclass(frozen=True)
class Subject:
    """A trained mixture of experts.

    Attributes:
        cell_id: Of its cell; of a checkpoint by itself, how the digest of its weights begins.
        label: What tables call it.
        seed: Of its cell; 0 for a checkpoint by itself.
        task: What it was trained for.
        folder: The checkpoint.
        teacher: Folder of the model that it was cut from; None where that is not here.
        identity: Of its cell; None for a checkpoint by itself.
        data: Folder of Parquet files that its run read, if any.
    """

    cell_id: str
    label: str
    seed: int
    task: Task
    folder: Path
    teacher: Path | None
    identity: CellIdentity | None = None
    data: Path | None = None

    @property
    def name(self) -> str:
        """What a person calls it."""
        seed = "" if self.identity is None else f", seed {self.seed}"
        return f"{self.label} on {self.task.name}{seed}"


def find(path: Path, *, task: str | None, teacher: Path | None, cell: str | None) -> list[Subject]:
    """Find what there is to measure in a run folder, or take a checkpoint's folder by itself.

    Args:
        path: One of them.
        task: Of a run, only cells of this task.
        teacher: What a checkpoint by itself was cut from.
        cell: Of a run, only this cell, by the beginning of its id.

    Raises:
        UserError: Where there is nothing to measure; the message says what there is.
    """
    if (path / "records").is_dir():
        if teacher is not None:
            raise UserError(f"{path}: a run has its teachers in models/; --teacher is for a checkpoint")
        return of_run(path, task, cell)
    if not (path / "config.json").is_file():
        raise UserError(f"{path}: neither a run folder (records/) nor a checkpoint (config.json)")
    if cell is not None:
        raise UserError(f"{path}: a checkpoint has no cells; --cell is for a run folder")
    return [of_checkpoint(path, task, teacher)]


def of_checkpoint(folder: Path, task: str | None, teacher: Path | None) -> Subject:
    """Take a checkpoint by itself.

    Raises:
        UserError: Where it has no experts, no task is named or known, or there is no such teacher.
    """
    _require_experts(folder)
    if task is None:
        raise UserError(
            f"{folder}: say what it was trained for: --task NAME (`moebench ls tasks`) or a task file"
        )
    found = _task(task)
    if teacher is not None:
        checkpoints.resolve(str(teacher))
    sha256 = checkpoints.weights_sha256(folder)
    return Subject(sha256[:16], folder.resolve().name, 0, found, folder, teacher)


def of_run(path: Path, task: str | None, cell: str | None) -> list[Subject]:
    """Take the finished cells of a run whose checkpoints have experts.

    Args:
        path: Run folder.
        task: Only cells of this task; needed where the run's own matrix does not say where its task is.
        cell: Only this cell, by the beginning of its id.

    Raises:
        UserError: Where there is no such cell, or none that has experts.
    """
    folder = RunFolder(path)
    matrix = load_matrix(str(folder.matrix_file)) if folder.matrix_file.exists() else None
    cells = [record for record in folder.records() if isinstance(record, CellRecord)]
    if cell is not None:
        cells = [_chosen(cells, cell, path)]
    if task is not None:
        own = (choice for choice in matrix.tasks if choice.name == task) if matrix else iter(())
        named = next(map(find_task, own), None) or _task(task)  # with the options that it has in the matrix
        if not (of_task := [record for record in cells if record.task == named.name]):
            raise unknown("task", named.name, {record.task for record in cells}, where=str(path))
        cells, tasks = of_task, [named]
    else:
        tasks = _tasks_of(matrix, path)
    # a tuning try is finished too, but never saw the validation split
    done = [record for record in cells if record.status == "done" and "validation" in record.scores]
    if cell is not None and done:
        _require_experts(folder.model_folder(done[0].id))
    data = Path(matrix.data).expanduser() if matrix and matrix.data else None
    subjects = [
        _subject(folder, record, tasks, data)
        for record in done
        if _has_experts(folder.model_folder(record.id))
    ]
    if not subjects:
        raise UserError(f"{path}: {_why_none(folder, cells, done)}")
    return subjects


def _subject(folder: RunFolder, record: CellRecord, tasks: Sequence[Task], data: Path | None) -> Subject:
    task = next((task for task in tasks if task_identity(task) == record.identity.task), None)
    if task is None:
        raise UserError(
            f"cell {record.id}: its task {record.task!r} is not described so any more; "
            "give the task file that it was run with: --task FILE"
        )
    teacher = folder.model_folder(record.teacher_id or "")
    there = bool(record.teacher_id) and (teacher / "config.json").is_file()
    return Subject(
        cell_id=record.id,
        label=record.label,
        seed=record.identity.seed,
        task=task,
        folder=folder.model_folder(record.id),
        teacher=teacher if there else None,
        identity=record.identity,
        data=data,
    )


def _chosen(cells: Sequence[CellRecord], cell: str, path: Path) -> CellRecord:
    found = [record for record in cells if record.id.startswith(cell)]
    if len(found) != 1:
        raise unknown("cell", cell, [record.id for record in cells], where=str(path))
    return found[0]


def _tasks_of(matrix: Matrix | None, path: Path) -> list[Task]:
    if matrix is None:
        raise UserError(f"{path}: no matrix.yaml says what its tasks are; name one: --task NAME")
    return [find_task(choice) for choice in matrix.tasks]


def _task(text: str) -> Task:
    ((name, options),) = parse_choice(text).items()
    return find_task(Choice(name=name, options=options))


def _has_experts(folder: Path) -> bool:
    return (folder / "config.json").is_file() and checkpoints.model_type(folder) in anatomies.names()


def _require_experts(folder: Path) -> None:
    kind = checkpoints.model_type(folder)
    if kind not in anatomies.names():
        raise UserError(
            f"{folder}: its model_type is {kind!r}, which is no mixture of experts known here; "
            f"possible: {', '.join(anatomies.names())}"
        )


def _why_none(folder: RunFolder, cells: Sequence[CellRecord], done: Sequence[CellRecord]) -> str:
    if not done:
        states = ", ".join(sorted({f"{record.label} is {record.status}" for record in cells})) or "no cells"
        return f"no finished cell to measure ({states})"
    here = [record for record in done if (folder.model_folder(record.id) / "config.json").is_file()]
    if not here:
        return "its checkpoints are not here (models/ lies beside records/ where the run was made)"
    kinds = sorted({checkpoints.model_type(folder.model_folder(record.id)) for record in here})
    return (
        f"no finished cell is a mixture of experts; there are {', '.join(kinds)}; "
        f"possible: {', '.join(anatomies.names())}"
    )
