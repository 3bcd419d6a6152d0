"""One anatomy, from checkpoint to record."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.utils import logging as transformers_logging

from bench import assets, checkpoints
from bench.anatomy.examples import examples_markdown
from bench.anatomy.measures import Reading, TeacherSays, measures
from bench.anatomy.subjects import Subject
from bench.batching import evaluation_batches
from bench.cell import EVALUATION_BATCH, encode_split, load_student
from bench.errors import UserError
from bench.evaluation import predict
from bench.registry import anatomies
from bench.sources import Rows, load_rows
from bench.survey import choose_device
from bench.tasks.heads import auto_model_class
from bench.tasks.task import Task
from bench.utc import now
from results import environment
from results.anatomy import Subject as SubjectRecord
from results.record import AnatomyRecord, digest
from results.store import RunFolder, write_atomically

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from bench.encoded import Encoded

ROWS = 500  # validation rows by default: a minute or two for the embedded teacher's size on one thread


@dataclass(frozen=True)
class Examined:
    """What an examination gives.

    Attributes:
        record: No text of the data is in it.
        examples: Markdown with sentences of the data; empty unless asked for.
    """

    record: AnatomyRecord
    examples: str

    def files(self) -> dict[str, str]:
        """Return what lies beside a report of it: the record, and the sentences if there are any."""
        name = self.record.cell_id
        files = {f"anatomy-{name}.json": self.record.model_dump_json(indent=1)}
        return files | ({f"examples-{name}.md": self.examples} if self.examples else {})


def examine(subject: Subject, *, data: Path | None, limit: int | None, examples: bool) -> Examined:
    """Measure a mixture of experts on validation rows of its task.

    Args:
        subject: Checkpoint, task and teacher.
        data: Folder of Parquet files; None means the run's, if it had one.
        limit: At most this many rows; None means ``ROWS``.
        examples: Whether to look for sentences too.

    Raises:
        UserError: Where checkpoint, task, rows and teacher do not belong together.
    """
    started = now()
    torch.set_num_threads(1)
    transformers_logging.disable_progress_bar()
    device = choose_device("fp32")[0]
    dissect = anatomies.get(checkpoints.model_type(subject.folder))
    rows, available = _rows(subject, data or subject.data, ROWS if limit is None else limit)
    own = checkpoints.Checkpoint(subject.label, subject.folder, checkpoints.weights_sha256(subject.folder))
    checkpoints.require_room(own, subject.task)
    tokenizer = checkpoints.load_tokenizer(own)
    model = _load(subject).to(device)
    teacher = _load_teacher(subject)
    cache = assets.cache_folder() / "tokenised"
    encoded = encode_split(subject.task, rows, "validation", tokenizer, cache).to(device)
    plan = list(evaluation_batches(encoded.lengths, EVALUATION_BATCH))
    batches = [encoded.batch(batch.indices, batch.length) for batch in plan]
    try:
        found = dissect(model, batches, teacher=teacher.model.to(device) if teacher else None)
    except ValueError as error:
        raise UserError(f"{subject.folder}: {error}") from error
    order = np.concatenate([batch.indices for batch in plan])
    reading = Reading(subject.task, rows.splits["validation"], encoded, order)
    what = SubjectRecord(
        checkpoint=own.sha256,
        teacher=teacher.sha256 if teacher else "",
        model_type=model.config.model_type,
        routing=str(getattr(model.config, "routing", "")),
        data=rows.fingerprint,
        rows=len(reading.rows),
        available_rows=available,
        tokens=int(encoded.lengths.sum()),
    )
    found_measures = measures(found, reading, _says(teacher, encoded, subject.task), tokenizer, what)
    written = AnatomyRecord(
        id=digest(["anatomy", subject.cell_id]),
        environment=environment.current().id,
        suite_version=environment.package_version("moebert-bench"),
        started=started,
        finished=now(),
        cell_id=subject.cell_id,
        task=subject.task.name,
        label=subject.label,
        seed=subject.seed,
        measures=found_measures.model_dump(mode="json"),
    )
    sentences = ""
    if examples:
        title = f"What the experts of {subject.name} read"
        sentences = examples_markdown(title, subject.task, reading.rows, reading.by_row(found.visits))
    return Examined(written, sentences)


def keep(run: Path, examined: Examined) -> list[Path]:
    """Leave a record in the run folder, and the sentences, if there are any, in ``anatomy-examples/``.

    Returns:
        The files.
    """
    folder = RunFolder(run)
    with folder.lock():
        folder.write_environment(environment.current())
        folder.write(examined.record)
        files = [folder.record_file(examined.record.id)]
        if examined.examples:
            files.append(run / "anatomy-examples" / f"{examined.record.cell_id}.md")
            write_atomically(files[-1], examined.examples.encode())
    return files


@dataclass(frozen=True)
class _Teacher:
    """The model that a mixture was cut from; ``fits``: it has the task's head."""

    model: PreTrainedModel
    sha256: str
    fits: bool


def _rows(subject: Subject, data: Path | None, limit: int) -> tuple[Rows, int]:
    """Load the rows to measure on, and say how many there are; a cell's must be those that it was trained for."""
    task, identity = subject.task, subject.identity
    roles = ("validation",) if identity is None else None
    whole = load_rows(task, data=data, limit=identity.limit if identity else None, roles=roles)
    if identity is not None and whole.fingerprint != identity.data:
        raise UserError(
            f"cell {subject.cell_id}: the rows of task {task.name!r} here are not those that it was trained on"
        )
    available = len(whole.splits["validation"])
    return load_rows(task, data=data, limit=min(limit, available), roles=("validation",)), available


def _load(subject: Subject) -> PreTrainedModel:
    task, folder = subject.task, subject.folder
    if subject.identity is not None:
        return load_student(subject.identity, folder, task)
    model, loading = _from_folder(folder, task)
    config = model.config
    if loading["missing_keys"] or config.num_labels != task.num_labels:
        raise UserError(
            f"{folder}: has no head for task {task.name!r} ({task.head}, {task.num_labels} outputs); "
            f"it is a {', '.join(config.architectures or [])} with {config.num_labels}"
        )
    if not checkpoints.has_labels_of(config.id2label, task):
        raise UserError(
            f"{folder}: its classes are {', '.join(config.id2label.values())}; those of task {task.name!r} are "
            f"{', '.join(task.labels)}, in this order"
        )
    return model


def _load_teacher(subject: Subject) -> _Teacher | None:
    if subject.teacher is None:
        return None
    found = checkpoints.resolve(str(subject.teacher))
    model, _ = _from_folder(found.folder, subject.task)
    return _Teacher(model, found.sha256, found.fits(subject.task))


def _from_folder(folder: Path, task: Task) -> tuple[PreTrainedModel, dict[str, Any]]:
    try:
        model, loading = auto_model_class(task.head).from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{folder}: does not load: {str(error).strip().splitlines()[0]}") from error
    return model.eval(), loading


def _says(teacher: _Teacher | None, encoded: Encoded, task: Task) -> TeacherSays:
    """Ask the teacher about the rows, if it has answers that can be compared."""
    if teacher is None:
        return TeacherSays(None, "no teacher")
    if task.head != "classification":
        return TeacherSays(None, f"loyalty compares classes, and {task.head} has none")
    if not teacher.fits:
        return TeacherSays(None, "the teacher has no head for the task")
    return TeacherSays(predict(teacher.model, encoded, batch_size=EVALUATION_BATCH, precision="fp32"))
