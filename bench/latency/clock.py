"""Time candidates beside a baseline in fresh processes, one after the other.

Why so: a process has luck of its own (memory layout, what else the machine does), so only several of them show how far
a number can be trusted; and two models are compared only by calls that ran side by side in one of them.
The parent sleeps meanwhile: one that polls takes the time it measures from a small machine.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.latency.job import (
    Answer,
    Batches,
    MemoryJob,
    Sample,
    Setting,
    Status,
    TimedModel,
    TimeJob,
    write_batches,
)
from bench.latency.processes import DeathError, Processes
from results.record import Repeat


@dataclass(frozen=True)
class TimingRequest:
    """What to time.

    Attributes:
        setting: Task, runtime, device, dtype and threads.
        baseline: What every candidate is compared with.
        candidates: What is timed beside it; their ids differ.
        batches: Inputs by workload, as ``bench.latency.workloads.streams`` builds them.
        repeats: Fresh processes.
        warmup: Rounds in each of them that are kept and not counted.
        rounds: Rounds that are counted; a round calls the baseline and one candidate once.
        memory: Whether to read peak memory and energy too, in one more process for every model.
        known: (candidate, workload) pairs that need no timing any more.
    """

    setting: Setting
    baseline: TimedModel
    candidates: tuple[TimedModel, ...]
    batches: Batches
    repeats: int = 5
    warmup: int = 3
    rounds: int = 20
    memory: bool = True
    known: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True)
class Timing:
    """What the processes said of one candidate under one workload.

    Attributes:
        reason: Why it was skipped or failed.
        repeats: One a process; fewer than asked for where one failed.
        warnings: What disturbed a process and only the process could know.
    """

    status: Status
    reason: str = ""
    repeats: tuple[Repeat, ...] = ()
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Point:
    """One point of a latency grid: what a grid is resumed by."""

    candidate: str
    workload: str
    runtime: str


def time_grid(
    request: TimingRequest,
    runtimes: Collection[str],
    *,
    known: Collection[Point] = (),
    workloads_at_once: int = 4,
) -> Iterator[tuple[Point, Timing]]:
    """Time candidates × workloads × runtimes, and hand over every point as soon as it is whole.

    A caller that stores what it is handed can be killed and called again with what it has: nothing is timed twice, and
    only the workloads under way are lost.

    Args:
        request: Its own runtime and known points are replaced.
        runtimes: Names of registered runtimes.
        known: Points that need no timing any more.
        workloads_at_once: Workloads that share a process, and are lost together.
    """
    names = list(request.batches)
    for runtime in runtimes:
        setting = replace(request.setting, runtime=runtime)
        done = frozenset((point.candidate, point.workload) for point in known if point.runtime == runtime)
        for start in range(0, len(names), workloads_at_once):
            batches = {name: request.batches[name] for name in names[start : start + workloads_at_once]}
            part = replace(request, setting=setting, batches=batches, known=done)
            for (candidate, workload), timing in time_cells(part).items():
                yield Point(candidate, workload, runtime), timing


def time_cells(request: TimingRequest) -> dict[tuple[str, str], Timing]:
    """Time every candidate beside the baseline under every workload.

    A candidate that cannot be loaded or run is a failed ``Timing`` and costs the others nothing, even where it takes
    the whole process down.

    Returns:
        (candidate, workload) -> what was seen, without the points that are known already.
    """
    points = [(model.id, workload) for workload in request.batches for model in request.candidates]
    found = {point: _Found() for point in points if point not in request.known}
    with TemporaryDirectory(prefix="moebench-clock-") as name:
        folder = Path(name)
        write_batches(request.batches, folder / "batches.safetensors")
        models = (request.baseline, *request.candidates)
        with Processes(folder, request.setting, {model.method for model in models}) as processes:
            processes.expect(request.repeats)
            for _ in range(request.repeats):
                going_on = tuple(point for point, seen in found.items() if seen.status == "done")
                for sample in _time_once(request, going_on, processes):
                    found[sample.candidate, sample.workload].add(sample)
            if request.memory:
                _add_memory(request, found, processes)
    return {point: seen.timing() for point, seen in found.items()}


@dataclass
class _Found:
    """A ``Timing`` in the making."""

    status: Status = "done"
    reason: str = ""
    repeats: list[Repeat] = field(default_factory=list)
    warnings: set[str] = field(default_factory=set)

    def add(self, sample: Sample) -> None:
        self.status, self.reason = sample.status, sample.reason
        self.warnings.update(sample.warnings)
        if sample.repeat is not None:
            self.repeats.append(sample.repeat)

    def timing(self) -> Timing:
        return Timing(self.status, self.reason, tuple(self.repeats), tuple(sorted(self.warnings)))


def _time_once(
    request: TimingRequest, points: tuple[tuple[str, str], ...], processes: Processes
) -> tuple[Sample, ...]:
    """Time points in one fresh process; where it dies, every candidate in one of its own, to find who did it."""
    candidates = tuple(model for model in request.candidates if any(model.id == name for name, _ in points))
    if not candidates:
        return ()
    job = TimeJob(request.setting, request.baseline, candidates, points, request.warmup, request.rounds)
    try:
        return processes.ask(job).samples
    except DeathError as death:
        if len(candidates) == 1:
            return tuple(Sample(*point, "failed", str(death)) for point in points)
    alone = (tuple(point for point in points if point[0] == model.id) for model in candidates)
    return tuple(sample for own in alone for sample in _time_once(request, own, processes))


def _add_memory(request: TimingRequest, found: dict[tuple[str, str], _Found], processes: Processes) -> None:
    """Note peak memory and energy in the first repeat of every point that was timed."""
    timed = {point: seen for point, seen in found.items() if seen.repeats}
    ascending = sorted(
        request.batches, key=lambda name: max(b["input_ids"].numel() for b in request.batches[name])
    )
    workloads = tuple(name for name in ascending if any(name == workload for _, workload in timed))
    if not workloads:
        return
    others = {model.id for model in request.candidates if model != request.baseline}
    processes.expect(1 + len(others & {name for name, _ in timed}))
    baseline = _weigh(request, request.baseline, workloads, processes)
    for model in request.candidates:
        own = tuple(name for name in workloads if (model.id, name) in timed)
        same = model == request.baseline
        candidate = baseline if same or not own else _weigh(request, model, own, processes)
        for workload in own:
            repeats = timed[model.id, workload].repeats
            repeats[0] = repeats[0].model_copy(
                update={
                    "baseline_peak_memory_bytes": baseline.peak_memory_bytes.get(workload),
                    "candidate_peak_memory_bytes": candidate.peak_memory_bytes.get(workload),
                    "baseline_energy_mj": baseline.energy_mj.get(workload),
                    "candidate_energy_mj": candidate.energy_mj.get(workload),
                }
            )


def _weigh(
    request: TimingRequest, model: TimedModel, workloads: tuple[str, ...], processes: Processes
) -> Answer:
    try:
        return processes.ask(MemoryJob(request.setting, model, workloads))
    except DeathError:  # what could be timed can still be too large to be weighed: then nothing is known
        return Answer()
