"""What the clock and its processes tell each other, as JSON and safetensors in a folder of their own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import TypeAdapter

from bench.tasks.task import Task
from results.record import Dtype, Repeat

if TYPE_CHECKING:
    from torch import Tensor

TEACHER = "teacher"
READY = "ready for a job"  # what a process says when it has started up

Status = Literal["done", "failed", "skipped"]
Batches = Mapping[str, Sequence[Mapping[str, "Tensor"]]]  # workload -> batches of [batch, length] inputs


@dataclass(frozen=True)
class TimedModel:
    """A finalized checkpoint and the method that can load it.

    Attributes:
        id: Of its cell.
        folder: Where it was saved.
        method: Name of the method whose ``load`` reads it; ``teacher`` for a plain model of the task's head.
        config: The method's configuration.
    """

    id: str
    folder: Path
    method: str = TEACHER
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Setting:
    """Under what circumstances models are run.

    Attributes:
        task: What they were trained for.
        runtime: Name of a registered runtime.
        device: As torch writes it.
        dtype: Of weights and activations.
        threads: Of the CPU; never inherited.
    """

    task: Task
    runtime: str = "eager"
    device: str = "cpu"
    dtype: Dtype = "fp32"
    threads: int = 1


@dataclass(frozen=True)
class TimeJob:
    """Time candidates beside the baseline, once, in one process.

    Attributes:
        points: (candidate, workload) pairs to time.
        warmup: Rounds that are kept and not counted.
        rounds: Rounds that are counted.
    """

    setting: Setting
    baseline: TimedModel
    candidates: tuple[TimedModel, ...]
    points: tuple[tuple[str, str], ...]
    warmup: int
    rounds: int
    kind: Literal["time"] = "time"


@dataclass(frozen=True)
class MemoryJob:
    """Read the peak memory and the energy of one model on each workload, in a process that holds no other model.

    Attributes:
        workloads: Small ones first: then a peak owes nothing to what ran before it.
    """

    setting: Setting
    model: TimedModel
    workloads: tuple[str, ...]
    kind: Literal["memory"] = "memory"


@dataclass(frozen=True)
class Sample:
    """What one process says of one point.

    Attributes:
        reason: Why it was skipped or failed.
        repeat: The timings, where it is done.
        warnings: What disturbed the process and only the process can know.
    """

    candidate: str
    workload: str
    status: Status
    reason: str = ""
    repeat: Repeat | None = None
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Answer:
    """All that a process says.

    Attributes:
        samples: Of a TimeJob, one a point.
        peak_memory_bytes: Of a MemoryJob, by workload; a workload that cannot be run is missing.
        energy_mj: Of a MemoryJob, of one call, by workload; missing where nothing counts it.
    """

    samples: tuple[Sample, ...] = ()
    peak_memory_bytes: dict[str, int] = field(default_factory=dict)
    energy_mj: dict[str, float] = field(default_factory=dict)


JOB: TypeAdapter[TimeJob | MemoryJob] = TypeAdapter(TimeJob | MemoryJob)
ANSWER: TypeAdapter[Answer] = TypeAdapter(Answer)


def write_batches(batches: Batches, file: Path) -> None:
    """Write the batches of all workloads into one safetensors file."""
    import torch
    from safetensors.torch import save_file

    flat = {
        # a copy: the format knows neither strides nor two tensors in one memory
        f"{workload}/{number}/{name}": tensor.cpu().clone(memory_format=torch.contiguous_format)
        for workload, listed in batches.items()
        for number, batch in enumerate(listed)
        for name, tensor in batch.items()
    }
    save_file(flat, file)


def read_batches(file: Path) -> dict[str, list[dict[str, Tensor]]]:
    """Read what ``write_batches`` wrote."""
    from safetensors.torch import load_file

    found: dict[str, dict[int, dict[str, Tensor]]] = {}
    for key, tensor in load_file(file).items():
        workload, number, name = key.split("/")
        found.setdefault(workload, {}).setdefault(int(number), {})[name] = tensor
    return {workload: [numbered[i] for i in sorted(numbered)] for workload, numbered in found.items()}
