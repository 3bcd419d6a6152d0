"""Synthetic records of a small campaign, made through the record schema alone."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.stats import norm

from results.environment import Environment
from results.record import (
    Budget,
    CellIdentity,
    CellRecord,
    CostRecord,
    CurvePoint,
    Failure,
    LatencyRecord,
    Repeat,
    StageRecord,
    TrainingRecord,
    WorkloadRecord,
    digest,
)
from results.store import RunFolder

ENVIRONMENT = Environment(
    machine="0123456789ab",
    system="Linux x86_64",
    cpu="Example CPU",
    cores=2,
    memory_gib=8,
    gpus=(),
    driver="",
    python="3.11.9",
    packages={"torch": "2.13.0"},
)
OTHER_ENVIRONMENT = ENVIRONMENT.model_copy(update={"machine": "ba9876543210", "gpus": ("Example GPU",)})
WHEN = "2026-01-01T00:00:00+00:00"
SPEED = {"teacher": 1.0, "finetune": 2.0, "distilbert": 1.95, "prune": 1.01, "moebert": 1.5}
QUALITY = {"teacher": 0.80, "finetune": 0.74, "distilbert": 0.77, "prune": 0.76, "moebert": 0.79}


def weights(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def identity(
    label: str = "finetune", task: str = "reviews", seed: int = 1, *, limit: int | None = None, **changes: Any
) -> CellIdentity:
    splits = changes.pop("splits", {"train": "train", "validation": "validation"})
    head = changes.pop("head", "classification")
    fields: dict[str, Any] = {
        "task": {"name": task, "head": head, "splits": splits},
        "data": f"data of {task}",
        "limit": limit,
        "calibration_rows": None,
        "method": label,
        "config": {} if label == "teacher" else {"layers": 3, "name": label},
        "teacher": weights(f"{task} {seed}") if label != "teacher" else weights("checkpoint"),
        "budget": Budget(),
        "seed": seed,
        "precision": "fp32",
    }
    return CellIdentity(**fields | changes)


def cell(
    label: str = "finetune",
    task: str = "reviews",
    seed: int = 1,
    *,
    status: str = "done",
    value: float | None = None,
    main_score: str = "accuracy",
    scores: Mapping[str, Mapping[str, float]] | None = None,
    reason: str = "",
    **changes: Any,
) -> CellRecord:
    """Make one cell; its score wobbles with the seed and the label, the same every time."""
    who = identity(label, task, seed, **changes)
    noise = np.random.default_rng([seed, *label.encode(), *task.encode()]).normal(0, 0.005)
    value = QUALITY.get(label, 0.7) + noise if value is None else value
    done = status == "done"
    return CellRecord(
        id=who.cell_id,
        environment=ENVIRONMENT.id,
        suite_version="0.1.0",
        started=WHEN,
        finished=WHEN,
        status=status,  # type: ignore[arg-type]
        identity=who,
        label=label,
        paper="" if label == "teacher" else f"{label}2020",
        teacher_id=None if label == "teacher" else identity("teacher", task, seed).cell_id,
        reason=reason,
        failure=Failure(error=reason, traceback=f"Traceback\n{reason}") if status == "failed" else None,
        main_score=main_score,
        scores=(scores or {"validation": {main_score: value}}) if done else {},
        rows={"train": 800, "validation": 200},
        cost=cost(label) if done else None,
        training=training(label) if done else None,
        weights_sha256=weights(f"{task} {seed}") if label == "teacher" else weights(who.cell_id),
    )


def cost(label: str) -> CostRecord:
    share = 1 / SPEED.get(label, 1.0)
    return CostRecord(
        stored_parameters=int(22_700_000 * (share if label != "moebert" else 1)),
        effective_parameters=int(22_700_000 * share),
        stored_encoder_parameters=int(10_600_000 * (share if label != "moebert" else 1)),
        effective_encoder_parameters=int(10_600_000 * share),
        multiply_adds=int(1.4e9 * share),
        length=128,
        checkpoint_bytes=int(91_000_000 * share),
    )


def training(label: str) -> TrainingRecord:
    def stage(name: str, start: float, before: int = 0) -> StageRecord:
        steps = range(10, 110, 10)
        losses = [start / (1 + step / 30) for step in steps]
        curve = [
            CurvePoint(step=before + step, examples=32 * (before + step), loss=loss, terms={"ce": loss})
            for step, loss in zip(steps, losses, strict=True)
        ]
        return StageRecord(name=name, steps=100, seconds=12.5, curve=curve)

    stages = (
        [stage("layers", 2.0), stage("prediction", 0.7, 100)]
        if label == "distilbert"
        else [stage("train", 0.7)]
    )
    return TrainingRecord(
        learning_rate=5e-5,
        steps=100 * len(stages),
        examples=3200 * len(stages),
        order_sha256=weights("order"),
        seconds=12.5 * len(stages),
        peak_memory_bytes=300 * 2**20,
        micro_batch_size=32,
        execution="eager",
        stages=stages,
    )


def latency(
    of: CellRecord,
    *,
    workload: WorkloadRecord | None = None,
    speed: float | None = None,
    status: str = "done",
    reason: str = "",
    **changes: Any,
) -> LatencyRecord:
    """Time a cell beside its teacher: recorded milliseconds, no clock."""
    workload = workload or WorkloadRecord(name="b1xl128", batch_size=1, length=128)
    speed = SPEED.get(of.label, 1.0) if speed is None else speed
    random = np.random.default_rng([of.identity.seed, *of.label.encode(), *workload.name.encode()])

    def repeat() -> Repeat:
        baseline = 20 * workload.batch_size * np.exp(random.normal(0, 0.01, 22))
        candidate = 20 * workload.batch_size / speed * np.exp(random.normal(0, 0.01, 22))
        return Repeat(
            warmup=2,
            baseline_ms=baseline.round(4).tolist(),
            candidate_ms=candidate.round(4).tolist(),
            load_average=(0.1, 0.2),
            candidate_peak_memory_bytes=int(200e6 / speed),
            baseline_peak_memory_bytes=200_000_000,
        )

    fields: dict[str, Any] = {
        "id": digest(["latency", of.id, workload.name, changes]),
        "environment": ENVIRONMENT.id,
        "suite_version": "0.1.0",
        "started": WHEN,
        "finished": WHEN,
        "status": status,
        "reason": reason,
        "cell_id": of.id,
        "baseline_id": of.teacher_id or of.id,
        "task": of.task,
        "method": of.identity.method,
        "label": of.label,
        "seed": of.identity.seed,
        "workload": workload,
        "runtime": "eager",
        "device": "cpu",
        "dtype": "fp32",
        "threads": 1,
        "repeats": [repeat() for _ in range(3)] if status == "done" else [],
    }
    return LatencyRecord(**fields | changes)


def campaign(
    labels: Sequence[str] = tuple(QUALITY),
    tasks: Sequence[str] = ("reviews",),
    seeds: Sequence[int] = (1, 2, 3),
) -> list[CellRecord | LatencyRecord]:
    """Make every cell of a matrix, and its timing beside the teacher."""
    cells = [cell(label, task, seed) for task in tasks for label in labels for seed in seeds]
    return [*cells, *(latency(one) for one in cells if one.label != "teacher")]


def save_predictions(
    folder: RunFolder, of: CellRecord, *, rows: int = 400, head: str = "classification"
) -> None:
    """Write what a cell said, in the layout of the harness: shared difficulty, a method's taste, a seed's luck."""
    shared = np.random.default_rng(list(of.task.encode()))
    difficulty, labels = shared.normal(0, 1, rows), shared.integers(0, 2, rows)
    taste = np.random.default_rng(list(of.label.encode())).normal(0, 0.3, rows)
    luck = np.random.default_rng([of.identity.seed, *of.label.encode()]).normal(0, 0.4, rows)
    skill = norm.ppf(QUALITY.get(of.label, 0.7)) * 1.12
    margin = skill + difficulty + taste + luck
    columns: dict[str, Any] = {
        "split": ["validation"] * rows,
        "row_id": [str(number) for number in range(rows)],
    }
    if head == "extractive-qa":
        columns |= {"f1": norm.cdf(margin), "exact_match": (margin > 0).astype(float)}
    else:
        signed = np.where(labels == 1, margin, -margin) / 2
        logits = signed[:, None] if head == "regression" else np.stack([-signed, signed], axis=1)
        columns |= {"label": labels, "logits": list(logits.astype(np.float16))}
    file = folder.predictions_file(of.id)
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), file, compression="zstd")
