"""One record as one row, or several, of a frame's tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from results.record import CellRecord, LatencyRecord, canonical_json
from results.timing import summarise_all

if TYPE_CHECKING:
    from results.environment import Environment
    from results.store import RunFolder
    from results.timing import TimingSummary


def task_label(cell: CellRecord) -> str:
    """Name the task with its limit and renamed splits, so that such rows never share a column with whole ones."""
    renamed = _renamed_splits(cell).items()
    parts = [name if name.startswith(role) else f"{role}={name}" for role, name in renamed]
    if cell.identity.limit is not None:
        parts.append(f"limit={cell.identity.limit}")
    return f"{cell.task} [{', '.join(parts)}]" if parts else cell.task


def _renamed_splits(cell: CellRecord) -> dict[str, str]:
    """Return the splits whose files are not called what the role is (``validation_matched`` is), by role."""
    splits: Mapping[str, str] = cell.identity.task.get("splits", {})
    if all(Path(name).suffix for name in splits.values()):
        return {}  # a task file of one's own says which files its splits are
    return {
        role: name
        for role, name in splits.items()
        if not role.startswith("test") and name != role and not name.startswith(f"{role}_")
    }


def cell_row(cell: CellRecord, folder: RunFolder | None) -> dict[str, Any]:
    """Lay out a cell."""
    identity, cost, training = cell.identity, cell.cost, cell.training
    predictions = folder.predictions_file(cell.id) if folder else None
    row: dict[str, Any] = {
        "cell_id": cell.id,
        "task": task_label(cell),
        "task_name": cell.task,
        "head": str(identity.task.get("head", "")),
        "method": identity.method,
        "label": cell.label,
        "seed": identity.seed,
        "status": cell.status,
        "reason": cell.reason or (cell.failure.error if cell.failure else ""),
        "limit": math.nan if identity.limit is None else identity.limit,
        "splits": ", ".join(f"{role}={name}" for role, name in _renamed_splits(cell).items()),
        "data": identity.data,
        "config": canonical_json(identity.config),
        "budget": canonical_json(identity.budget.model_dump(mode="json")),
        "teacher": identity.teacher,
        "teacher_id": cell.teacher_id or "",
        "paper": cell.paper,
        "main_score": cell.main_score,
        "main_value": cell.scores.get("validation", {}).get(cell.main_score, math.nan),
        "rows": ", ".join(f"{role}={count}" for role, count in cell.rows.items()),
        "precision": identity.precision,
        "environment": cell.environment,
        "warnings": "\n".join(cell.warnings),
        "suite_version": cell.suite_version,
        "predictions_path": str(predictions) if predictions and predictions.exists() else "",
    }
    if cost:
        row |= cost.model_dump()
    if training:
        row |= {
            "learning_rate": training.learning_rate,
            "steps": training.steps,
            "examples": training.examples,
            "micro_batch_size": training.micro_batch_size,
            "training_seconds": training.seconds,
            "training_peak_memory_bytes": training.peak_memory_bytes,
            "execution": training.execution,
        }
    return row


def score_rows(cell: CellRecord) -> Iterable[dict[str, Any]]:
    """Lay out all scores of a cell."""
    for split, scores in cell.scores.items():
        for score, value in scores.items():
            yield {"cell_id": cell.id, "split": split, "score": score, "value": value}


def try_rows(cell: CellRecord) -> Iterable[dict[str, Any]]:
    """Lay out the tries that a cell's knobs were chosen by."""
    if cell.tuning is None:
        return
    tuning, held_out = cell.tuning, cell.tuning.held_out
    for number, one in enumerate(tuning.tries):
        yield {
            "label": cell.label,
            "task": tuning.task,
            "score": tuning.score,
            "number": number + 1,
            "allowed": tuning.allowed,
            "combinations": tuning.combinations,
            "rows": f"{held_out.share:.0%} of the training rows, at most {held_out.most:,}, seed {held_out.seed}",
            "max_steps": math.nan if tuning.max_steps is None else tuning.max_steps,
            "knobs": canonical_json(one.knobs),
            "status": one.status,
            "value": math.nan if one.score is None else one.score,
            "steps": one.steps,
            "won": number == tuning.winner,
            "reason": one.reason,
        }


def latency_rows(
    timings: Iterable[LatencyRecord], tasks: Mapping[str, str], cores: Mapping[str, int]
) -> list[dict[str, Any]]:
    """Lay out timings with their statistics.

    Args:
        timings: Records of timings.
        tasks: What tables call the task of each cell.
        cores: Logical cores of the environments that are known, by id.
    """
    timings = list(timings)
    done = [timing for timing in timings if timing.status == "done"]
    summaries = dict(zip((timing.id for timing in done), summarise_all(done, cores), strict=True))
    return [
        _latency_row(timing, tasks.get(timing.cell_id, timing.task), summaries.get(timing.id))
        for timing in timings
    ]


def _latency_row(timing: LatencyRecord, task: str, summary: TimingSummary | None) -> dict[str, Any]:
    row: dict[str, Any] = {
        "latency_id": timing.id,
        "cell_id": timing.cell_id,
        "task": task,
        "label": timing.label,
        "seed": timing.seed,
        "status": timing.status,
        "reason": timing.reason,
        "environment": timing.environment,
        "device": timing.device,
        "runtime": timing.runtime,
        "dtype": timing.dtype,
        "threads": timing.threads,
        "workload": timing.workload.name,
        "batch_size": timing.workload.batch_size,
        "length": math.nan if timing.workload.length is None else timing.workload.length,
        "repeats": len(timing.repeats),
        "warnings": "\n".join(timing.warnings),
    }
    if summary is None:
        return row
    repeats = timing.repeats
    return row | {
        "p50_ms": summary.p50_ms,
        "p90_ms": summary.p90_ms,
        "p99_ms": summary.p99_ms,
        "baseline_p50_ms": summary.baseline_p50_ms,
        "speedup": summary.speedup,
        "speedup_low": summary.speedup_low,
        "speedup_high": summary.speedup_high,
        "throughput_per_s": summary.throughput_per_s,
        "peak_memory_bytes": _known(max, [repeat.candidate_peak_memory_bytes for repeat in repeats]),
        "baseline_peak_memory_bytes": _known(max, [repeat.baseline_peak_memory_bytes for repeat in repeats]),
        "energy_mj": _known(_mean, [repeat.candidate_energy_mj for repeat in repeats]),
        "baseline_energy_mj": _known(_mean, [repeat.baseline_energy_mj for repeat in repeats]),
        "warnings": "\n".join([*timing.warnings, *summary.warnings]),
    }


def _known(reduce: Any, values: list[Any]) -> float:
    known = [value for value in values if value is not None]
    return float(reduce(known)) if known else math.nan


def _mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def curve_rows(cell: CellRecord) -> Iterable[dict[str, Any]]:
    """Lay out the training curve of a cell; records count its steps over all stages."""
    whose = {
        "cell_id": cell.id,
        "task": task_label(cell),
        "label": cell.label,
        "seed": cell.identity.seed,
    }
    for stage in cell.training.stages if cell.training else []:
        for point in stage.curve:
            for term, value in {"loss": point.loss, **point.terms}.items():
                yield whose | {
                    "stage": stage.name,
                    "step": point.step,
                    "examples": point.examples,
                    "term": term,
                    "value": value,
                }


def environment_row(key: str, environment: Environment) -> dict[str, str]:
    """Lay out an environment."""
    processor = f"{environment.cpu}, {environment.cores} cores"
    packages = ", ".join(f"{name} {version}" for name, version in sorted(environment.packages.items()))
    return {
        "environment": key,
        "hardware": ", ".join([*environment.gpus, processor]),
        "software": f"Python {environment.python}, {packages}",
    }
