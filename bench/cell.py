"""One cell, from teacher to record: compress, train, finalize, save, reload, evaluate what was reloaded.

A teacher is a cell too: its student is the checkpoint itself, trained on labels.
"""

from __future__ import annotations

import shutil
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor
from transformers.utils import logging as transformers_logging

from bench import checkpoints
from bench.batching import evaluation_batches
from bench.checkpointing import Checkpointer
from bench.cost import count
from bench.data import encode, model_inputs
from bench.errors import UserError
from bench.evaluation import predict, row_scores, save_predictions, score
from bench.holdout import hold_out
from bench.method import Method, Objective, Skip, Stage
from bench.plans import TEACHER
from bench.registry import methods
from bench.seeds import derive
from bench.sources import load_rows
from bench.tasks.heads import auto_model_class
from bench.tasks.task import Task
from bench.training import NonFiniteLossError, Settings, train
from bench.utc import now
from results import environment
from results.record import (
    CalibrationRecord,
    CellIdentity,
    CellRecord,
    CostRecord,
    Failure,
    TrainingRecord,
    TuningRecord,
)
from results.store import RunFolder, whole_folder

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from bench.encoded import Encoded
    from bench.sources import Rows

COST_LENGTH = 128  # tokens for which multiply-adds are stated, unless the task's sequences are shorter
EVALUATION_BATCH = 64

Report = Callable[[str, int, int, float], None]


@dataclass(frozen=True)
class Job:
    """One cell to be made; everything a worker process needs to know.

    Attributes:
        identity: Decides the cell's id.
        task: What it is for.
        label: What tables call the method.
        checkpoint: What a teacher starts from; for a student, the checkpoint whose tokenizer it uses.
        teacher_id: Cell of the student's teacher; None makes a teacher.
        folder: Run folder.
        data: Folder of Parquet files, if any.
        cache: Folder of tokenised rows.
        device: Where to train.
        threads: Of the CPU.
        tuning: How its knobs were chosen, for the record.
    """

    identity: CellIdentity
    task: Task
    label: str
    checkpoint: str
    teacher_id: str | None
    folder: Path
    data: Path | None
    cache: Path
    device: str
    threads: int
    tuning: TuningRecord | None = None

    @property
    def cell_id(self) -> str:
        """Id of the cell."""
        return self.identity.cell_id

    @property
    def name(self) -> str:
        """What a person calls the cell."""
        kind = "" if self.identity.held_out is None else "try of "
        return f"{kind}{self.label} on {self.task.name}, seed {self.identity.seed}"


class LabelLoss(Objective):
    """Minimise the model's own loss on the labels: how a teacher is fine-tuned."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Compute cross-entropy, squared error or span loss, as the head has it."""
        return {"labels": self.model(**model_inputs(self.model, batch)).loss}


class TrainingRows:
    """The calibration of a cell: batches of at most ``most`` rows, drawn by the seed; counts of all rows.

    Attributes:
        record: What ``compress`` took of it.
    """

    def __init__(self, rows: Encoded, most: int | None, batch_size: int, seed: int) -> None:
        order = np.random.Generator(np.random.PCG64(seed)).permutation(len(rows.lengths))
        self.indices = np.sort(order[:most])
        self.rows = rows
        self.batch_size = batch_size
        self.record = CalibrationRecord(sequences=0, counted_tokens=0)

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.record = self.record.model_copy(update={"sequences": len(self.indices)})
        for batch in evaluation_batches(self.rows.lengths[self.indices], self.batch_size):
            yield self.rows.batch(self.indices[batch.indices], batch.length)

    def token_frequency(self, vocab_size: int) -> Tensor:
        """Count the tokens of every row, ``[vocab_size]``; they lie in one array without padding."""
        tokens = self.rows.tensors["input_ids"]
        self.record = self.record.model_copy(update={"counted_tokens": len(tokens)})
        return torch.bincount(tokens, minlength=vocab_size).cpu()


def run_cell(job: Job, report: Report | None = None) -> CellRecord:
    """Make one cell and leave its record; a failure is a record too, never an exception.

    KeyboardInterrupt and SystemExit pass through: an interrupted cell has no record and is made again.
    """
    started = now()
    torch.set_num_threads(job.threads)
    transformers_logging.disable_progress_bar()
    try:
        values = _make(job, RunFolder(job.folder), report)
    except Exception as error:  # noqa: BLE001 - whatever a method raises is a result of its cell
        values = {"status": "failed", "reason": _first_line(error), "failure": _failure(error)}
    return _write_record(job, started, values)


def record_failure(job: Job, reason: str, details: str) -> CellRecord:
    """Leave a record for a cell whose process could not."""
    failure = Failure(error=reason, traceback=details)
    return _write_record(job, now(), {"status": "failed", "reason": reason, "failure": failure})


def _write_record(job: Job, started: str, values: dict[str, Any]) -> CellRecord:
    folder = RunFolder(job.folder)
    record = CellRecord(
        id=job.cell_id,
        identity=job.identity,
        label=job.label,
        teacher_id=job.teacher_id,
        main_score=job.task.main_score,
        tuning=job.tuning,
        environment=folder.write_environment(environment.current()),
        suite_version=environment.package_version("moebert-bench"),
        started=started,
        finished=now(),
        **values,
    )
    folder.write(record)
    return record


def _make(job: Job, folder: RunFolder, report: Report | None) -> dict[str, Any]:
    """Make the cell and return the fields of its record."""
    device = torch.device(job.device)
    rows = _load(job)
    tokenizer = checkpoints.load_tokenizer(checkpoints.resolve(job.checkpoint))
    encoded = {
        role: encode_split(job.task, rows, role, tokenizer, job.cache).to(device) for role in rows.splits
    }
    method = None if job.teacher_id is None else make_method(job.identity)
    known: dict[str, Any] = _literals(method, job)
    if method is None:
        student, training = _train_teacher(job, encoded["train"], device, folder, report)
    else:
        calibration = _calibration(job, encoded["train"])
        made = _train_student(job, method, calibration, device, folder, report)
        if isinstance(made, Skip):
            return {"status": "skipped", "reason": made.reason, **known}
        student, training = made
        known["calibration"] = calibration.record
    length = min(COST_LENGTH, job.task.max_length)
    cost = count(student, length) if method is None else method.cost(student, length)
    path = folder.model_folder(job.cell_id)
    with whole_folder(path) as temporary:
        student.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    del student
    finalized = load_student(job.identity, path, job.task).to(device)
    scores = _evaluate(job, finalized, rows, encoded, folder)
    sha256 = checkpoints.weights_sha256(path)
    checkpoint_bytes = _checkpoint_bytes(path)
    if method is not None and job.identity.held_out:
        shutil.rmtree(path)  # only a teacher's try is needed again: one of them teaches the methods' tries
    return {
        "status": "done",
        "scores": scores,
        "rows": {role: len(split) for role, split in rows.splits.items()},
        "cost": CostRecord(**vars(cost), checkpoint_bytes=checkpoint_bytes),
        "training": training,
        "warnings": _warnings(encoded["train"], training),
        "weights_sha256": sha256,
        **known,
    }


def make_method(identity: CellIdentity) -> Method:
    """Build the method of a cell from its recorded configuration."""
    plugin = methods.get(identity.method)
    return plugin(plugin.Config.model_validate(identity.config))


def load_student(identity: CellIdentity, folder: Path, task: Task) -> PreTrainedModel:
    """Reload a finalized checkpoint as its method says, in eval mode and fp32."""
    if identity.method == TEACHER:
        model: PreTrainedModel = auto_model_class(task.head).from_pretrained(folder)
    else:
        model = make_method(identity).load(folder, task)
    return model.float().eval()


def _load(job: Job) -> Rows:
    """Load the rows of a cell; a try gets training rows alone and is scored on those held out from them."""
    held_out = job.identity.held_out
    roles = None if held_out is None else ("train",)
    rows = load_rows(job.task, data=job.data, limit=job.identity.limit, roles=roles)
    if rows.fingerprint != job.identity.data:
        raise UserError(f"the rows of task {job.task.name!r} changed while the matrix was running")
    return rows if held_out is None else hold_out(job.task, rows, held_out)


def encode_split(
    task: Task, rows: Rows, role: str, tokenizer: PreTrainedTokenizerBase, cache: Path
) -> Encoded:
    """Tokenise one split of a task, or read it from the cache that all cells share."""
    key = f"{rows.fingerprint}-{role}"
    return encode(task, rows.splits[role], tokenizer, cache=cache, key=key, training=role == "train")


def _literals(method: Method | None, job: Job) -> dict[str, str]:
    if method is None:
        return {}
    return {"paper": method.paper, "source_sha256": methods.source_sha256(job.identity.method)}


def training_settings(job: Job) -> Settings:
    """Return what the loop needs to know of a cell."""
    identity = job.identity
    device = torch.device(job.device)
    return Settings(identity.budget, job.task.name, identity.seed, identity.precision, device)


def _calibration(job: Job, rows: Encoded) -> TrainingRows:
    identity = job.identity
    order = derive(identity.seed, "calibration", job.task.name)
    return TrainingRows(rows, identity.calibration_rows, identity.budget.batch_size, order)


def _train_teacher(
    job: Job, rows: Encoded, device: torch.device, folder: RunFolder, report: Report | None
) -> tuple[PreTrainedModel, TrainingRecord | None]:
    """Fine-tune the checkpoint on the labels; one that fits the task already is used as it is."""
    checkpoint = checkpoints.resolve(job.checkpoint)
    model = checkpoints.load_model(checkpoint, job.task, seed=job.identity.seed).to(device)
    if checkpoint.fits(job.task):
        return model.eval(), None
    stages = [Stage(name="labels", share=1.0, objective=LabelLoss(model))]
    keeper = Checkpointer(folder.checkpoint_folder(job.cell_id))
    training = train(model, None, stages, rows, training_settings(job), checkpointer=keeper, report=report)
    return model.eval(), training


def _train_student(
    job: Job,
    method: Method,
    calibration: TrainingRows,
    device: torch.device,
    folder: RunFolder,
    report: Report | None,
) -> tuple[PreTrainedModel, TrainingRecord | None] | Skip:
    """Compress this cell's own copy of the teacher, then train the student through its stages."""
    identity = job.identity
    assert job.teacher_id is not None
    loaded = auto_model_class(job.task.head).from_pretrained(folder.model_folder(job.teacher_id))
    teacher: PreTrainedModel = loaded.float().to(device).eval().requires_grad_(False)
    if skip := method.supports(job.task, teacher):
        return skip
    torch.manual_seed(derive(identity.seed, "compress", job.task.name))
    student = method.compress(teacher, calibration, job.task).to(device)
    _separate(student, teacher)
    stages = method.stages(teacher, student, job.task)
    training = None
    if stages:
        keeper = Checkpointer(folder.checkpoint_folder(job.cell_id))
        settings = training_settings(job)
        training = train(
            student, teacher, stages, calibration.rows, settings, checkpointer=keeper, report=report
        )
    return method.finalize(student, stages).eval(), training


def _separate(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    """Freeze the teacher again and let all of the student train; they must not share parameters."""
    teacher.eval().requires_grad_(False).zero_grad(set_to_none=True)
    theirs = {id(parameter) for parameter in teacher.parameters()}
    if shared := [name for name, parameter in student.named_parameters() if id(parameter) in theirs]:
        raise UserError(
            f"the student shares {len(shared)} parameters with its teacher ({shared[0]}, …); copy them"
        )
    for parameter in student.parameters():
        parameter.requires_grad_(parameter.is_floating_point())


def _evaluate(
    job: Job, model: PreTrainedModel, rows: Rows, encoded: dict[str, Encoded], folder: RunFolder
) -> dict[str, dict[str, float]]:
    scores, logits, by_row = {}, {}, {}
    for role in (role for role in rows.splits if role != "train"):
        logits[role] = predict(
            model, encoded[role], batch_size=EVALUATION_BATCH, precision=job.identity.precision
        )
        scores[role] = score(job.task, rows.splits[role], encoded[role], logits[role])
        by_row[role] = row_scores(job.task, rows.splits[role], encoded[role], logits[role])
    if job.identity.held_out is None:
        save_predictions(folder.predictions_file(job.cell_id), encoded, logits, by_row)
    return scores


def _warnings(train: Encoded, training: TrainingRecord | None) -> list[str]:
    """Say what a reader of the scores should know about the training."""
    warnings = []
    if excluded := train.excluded():
        warnings.append(f"{len(excluded)} training rows left out: their answer is not in their context")
    if training and training.micro_batch_size < training.examples // training.steps:
        warnings.append(f"memory ran out: gradients accumulated over {training.micro_batch_size} rows a pass")
    return warnings


def _checkpoint_bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _failure(error: Exception) -> Failure:
    text = "".join(traceback.format_exception(error))
    if isinstance(error, NonFiniteLossError):
        return Failure(error=_first_line(error), traceback=text, step=error.step, row_ids=error.row_ids)
    return Failure(error=_first_line(error), traceback=text)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
