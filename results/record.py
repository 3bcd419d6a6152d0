"""What a run leaves behind: one validated JSON document a cell, a timing or an anatomy.

Units are in the names. ``SCHEMA_VERSION`` rises when an old reader would misread a new file; old files stay loadable.
"""

from __future__ import annotations

import hashlib
import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

SCHEMA_VERSION = 1

Dtype = Literal["fp32", "tf32", "bf16", "fp16"]


def canonical_json(value: Any) -> str:
    """Write a value so that equal values give equal text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def digest(value: Any) -> str:
    """Return the first 16 hex digits of the sha256 of the canonical JSON: the identity of cells and environments."""
    return hashlib.sha256(canonical_json(value).encode()).hexdigest()[:16]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Budget(_Model):
    """Training effort, the same for every method of a matrix."""

    model_config = ConfigDict(allow_inf_nan=False)

    epochs: float = Field(default=3.0, gt=0, description="passes over the training rows; stages share them")
    max_steps: int | None = Field(default=None, ge=1, description="upper bound on the steps")
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=5e-5, gt=0)
    warmup: float = Field(default=0.1, ge=0, lt=1, description="share of each stage's steps")
    weight_decay: float = Field(default=0.01, ge=0)
    max_grad_norm: float = Field(default=1.0, gt=0)


class HeldOut(_Model):
    """Training rows that a tuning try is scored on; it trains on the rest and never sees the validation split.

    Attributes:
        share: Of the training rows.
        most: At most this many rows.
        seed: Decides which.
    """

    share: float = Field(gt=0, lt=1)
    most: int = Field(ge=1)
    seed: int = Field(ge=0)


class CellIdentity(_Model):
    """Everything that decides what a cell computes; its digest is the cell's id.

    Attributes:
        task: The task's specification.
        data: Fingerprint of the rows.
        limit: At most this many rows of each split (a smoke run), else None.
        calibration_rows: At most this many training rows for ``compress``, else None.
        method: Name of the method; ``teacher`` for a teacher's own cell.
        config: Its validated configuration, defaults included.
        teacher: sha256 of the teacher's weights; for a teacher's own cell, of the checkpoint it starts from.
        budget: Training effort.
        seed: Decides data order, head initialisation and dropout.
        precision: ``fp32`` or ``bf16`` (autocast).
        held_out: What a tuning try is scored on; None for the cells of the matrix, whose ids leave it out.
        schema_version: Of the harness that trained it.
    """

    task: dict[str, Any]
    data: str
    limit: int | None
    calibration_rows: int | None
    method: str
    config: dict[str, Any]
    teacher: str
    budget: Budget
    seed: int
    precision: Literal["fp32", "bf16"]
    held_out: HeldOut | None = None
    schema_version: int = SCHEMA_VERSION

    @property
    def cell_id(self) -> str:
        """Digest of this identity."""
        exclude = {"held_out"} if self.held_out is None else None
        return digest(self.model_dump(mode="json", exclude=exclude))


class CostRecord(_Model):
    """Size and arithmetic of a finalized checkpoint; one fused multiply-add counts as one.

    ``encoder`` leaves the embeddings out: that is what sizes are compared by. ``effective`` leaves out experts that a
    token does not visit and exact zeros.
    """

    stored_parameters: int
    effective_parameters: int
    stored_encoder_parameters: int
    effective_encoder_parameters: int
    multiply_adds: int
    length: int = Field(description="tokens of the one sequence that multiply_adds is for")
    checkpoint_bytes: int


class CalibrationRecord(_Model):
    """What ``compress`` took of the training rows; 0 where it did not look.

    Attributes:
        sequences: In the batches that it iterated.
        counted_tokens: Tokens of all training rows, whose frequency it asked for.
    """

    sequences: int
    counted_tokens: int


class CurvePoint(_Model):
    """Mean of the loss and its weighted terms over the steps since the last point."""

    step: int
    examples: int
    loss: float
    terms: dict[str, float]


class StageRecord(_Model):
    """One stage of the training."""

    name: str
    steps: int
    seconds: float
    curve: list[CurvePoint]


class TrainingRecord(_Model):
    """How the weights came about.

    Attributes:
        examples: Rows seen, repeats counted.
        order_sha256: Of the row numbers in the order seen: equal for all methods of a (task, seed).
        micro_batch_size: Below the batch size where memory ran out and gradients were accumulated.
        execution: ``eager`` or ``captured``.
    """

    learning_rate: float
    steps: int
    examples: int
    order_sha256: str
    seconds: float
    peak_memory_bytes: int
    micro_batch_size: int
    execution: Literal["eager", "captured"]
    stages: list[StageRecord]


class Failure(_Model):
    """Why a cell has no result."""

    error: str
    traceback: str
    step: int | None = None
    row_ids: list[str] = []


class Try(_Model):
    """One try of equal tuning; its own record says the rest.

    Attributes:
        id: Of its record.
        knobs: What it set.
        score: The task's main score on the held-out rows; None where it is not done.
    """

    id: str
    knobs: dict[str, Any]
    status: Literal["done", "failed", "skipped"]
    score: float | None = None
    steps: int = 0
    reason: str = ""


class TuningRecord(_Model):
    """How the knobs of a cell were chosen.

    Attributes:
        task: On whose training rows.
        score: Name of the score that decided.
        held_out: Which of them were held out.
        max_steps: At most this many steps a try.
        allowed: Tries that every method had.
        combinations: In the method's grid; all of them are tried where there are fewer than allowed.
        tries: In the order tried, the best guess first.
        winner: Position of the try whose knobs the cell has.
    """

    task: str
    score: str
    held_out: HeldOut
    max_steps: int | None
    allowed: int
    combinations: int
    tries: list[Try]
    winner: int


class _Record(_Model):
    schema_version: int = SCHEMA_VERSION
    id: str
    environment: str = Field(description="id of a file under environments/")
    suite_version: str
    started: str = Field(description="UTC, ISO 8601")
    finished: str = Field(description="UTC, ISO 8601")
    warnings: list[str] = []


class CellRecord(_Record):
    """One cell of the matrix: done, failed, or skipped with the reason.

    Attributes:
        label: What tables call the method: its name, and the knobs the matrix set where it lists a method twice.
        paper: Key of the method's paper in the published references; empty for the teacher.
        source_sha256: Of the method's source and the first-party modules that it imports; differs from today's: stale.
        teacher_id: Id of the teacher's cell; None for the teacher's own.
        scores: Split -> score -> value in [0, 1] (correlations in [-1, 1]).
        rows: Role of the split -> rows used.
        calibration: What the method took of the training rows before it trained; None for a teacher.
        weights_sha256: Of the finalized checkpoint.
        tuning: How its knobs were chosen; None where the matrix says them all.
    """

    kind: Literal["cell"] = "cell"
    status: Literal["done", "failed", "skipped"]
    identity: CellIdentity
    label: str
    paper: str = ""
    source_sha256: str = ""
    teacher_id: str | None = None
    reason: str = ""
    failure: Failure | None = None
    main_score: str
    scores: dict[str, dict[str, float]] = {}
    rows: dict[str, int] = {}
    cost: CostRecord | None = None
    calibration: CalibrationRecord | None = None
    training: TrainingRecord | None = None
    weights_sha256: str = ""
    tuning: TuningRecord | None = None

    @property
    def task(self) -> str:
        """Name of the task."""
        return str(self.identity.task["name"])


class WorkloadRecord(_Model):
    """What one timed call processes; ``length`` None: rows at their real lengths, padded to the batch's longest."""

    name: str
    batch_size: int
    length: int | None


class Repeat(_Model):
    """One fresh process: milliseconds of each call, in turn A B A B; the first ``warmup`` of a side do not count."""

    warmup: int
    baseline_ms: list[float]
    candidate_ms: list[float]
    load_average: tuple[float, float] = Field(description="one-minute load before and after")
    baseline_peak_memory_bytes: int | None = None
    candidate_peak_memory_bytes: int | None = None
    baseline_energy_mj: float | None = Field(default=None, description="per call, where the device tells it")
    candidate_energy_mj: float | None = None


class LatencyRecord(_Record):
    """A candidate timed beside its teacher under one runtime and workload."""

    kind: Literal["latency"] = "latency"
    status: Literal["done", "failed", "skipped"]
    reason: str = ""
    cell_id: str
    baseline_id: str
    task: str
    method: str
    label: str
    seed: int
    workload: WorkloadRecord
    runtime: str
    device: str
    dtype: Dtype
    threads: int
    repeats: list[Repeat] = []


class AnatomyRecord(_Record):
    """What the experts of a trained mixture learned; tables keyed by measure, no text of the data."""

    kind: Literal["anatomy"] = "anatomy"
    status: Literal["done", "failed"] = "done"
    cell_id: str
    task: str
    label: str
    seed: int
    measures: dict[str, Any]


Record = Annotated[CellRecord | LatencyRecord | AnatomyRecord, Field(discriminator="kind")]
record_adapter: TypeAdapter[CellRecord | LatencyRecord | AnatomyRecord] = TypeAdapter(Record)
