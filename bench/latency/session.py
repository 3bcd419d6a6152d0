"""Time the finalized checkpoints of a run folder, each beside its own teacher, and keep a record of every point."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.events import Event, Listener
from bench.latency.clock import Point, Timing, TimingRequest, time_grid
from bench.latency.job import Setting, TimedModel
from bench.latency.workloads import Workload, streams
from bench.seeds import derive
from bench.utc import now
from results import environment
from results.record import CellRecord, LatencyRecord, WorkloadRecord, digest

if TYPE_CHECKING:
    from bench.matrix import LatencyPlan
    from bench.survey import Cell, Overwrite, Survey


def time_matrix(survey: Survey, overwrite: Overwrite, listener: Listener) -> list[LatencyRecord]:
    """Bring the timings of a run folder up to date; a point that is there already is not timed again.

    Returns:
        Every timing that the matrix asks for, old and new. The teacher is timed against itself too: its ratio shows
        what the clock makes of no difference at all.
    """
    records = []
    students = survey.students()
    for teacher in survey.teachers():
        if teacher.record is None or teacher.record.status != "done":
            continue
        own = [cell for cell in students if (cell.task, cell.seed) == (teacher.task, teacher.seed)]
        for plan in survey.matrix.latency:
            if teacher.seed in (plan.seeds or survey.matrix.seeds[:1]) and teacher.task in (
                plan.tasks or [teacher.task]
            ):
                records += _Session(survey, plan, teacher.record, own).run(overwrite, listener)
    return records


class _Session:
    """The timings of one teacher and its students."""

    def __init__(
        self, survey: Survey, plan: LatencyPlan, teacher: CellRecord, students: Sequence[Cell]
    ) -> None:
        self.survey = survey
        self.plan = plan
        self.baseline = teacher
        wanted = set(plan.methods)
        done = [
            cell.record
            for cell in students
            if cell.record
            and cell.record.status == "done"
            and (not wanted or wanted & {cell.plan.method, cell.plan.label})
        ]
        self.cells = {record.id: record for record in (teacher, *done)}
        self.device = "cpu" if plan.device == "cpu" else survey.device
        self.environment = survey.folder.write_environment(environment.current())

    def run(self, overwrite: Overwrite, listener: Listener) -> list[LatencyRecord]:
        points = [
            Point(cell, Workload.parse(workload).name, runtime)
            for runtime in self.plan.runtimes
            for workload in self.plan.workloads
            for cell in self.cells
        ]
        kept = {} if overwrite == "always" else self._kept(points, retry=overwrite != "never")
        if len(kept) < len(points):
            task, seed = self.baseline.task, self.baseline.identity.seed
            listener(Event("timing", f"{len(points) - len(kept)} points on {task}, seed {seed}"))
            started = now()
            at_once = self.plan.workloads_at_once
            grid = time_grid(self._request(), self.plan.runtimes, known=list(kept), workloads_at_once=at_once)
            for point, timing in grid:
                kept[point] = self._keep(point, timing, started)
                started = now()
        return [kept[point] for point in points]

    def _kept(self, points: Sequence[Point], *, retry: bool) -> dict[Point, LatencyRecord]:
        """Read the timings that stand: of today's checkpoints, failed ones only where nobody wants them tried again."""
        found = {}
        for point in points:
            record = self.survey.folder.record(self._id(point))
            if not isinstance(record, LatencyRecord) or (retry and record.status == "failed"):
                continue
            if record.finished >= max(self.baseline.finished, self.cells[point.candidate].finished):
                found[point] = record
        return found

    def _request(self) -> TimingRequest:
        task = next(plan.task for plan in self.survey.plans if plan.task.name == self.baseline.task)
        rows = self.survey.encoded(task, "validation")
        workloads = [Workload.parse(name) for name in self.plan.workloads]
        setting = Setting(task, device=self.device, dtype=self.plan.dtype, threads=self.plan.threads)
        return TimingRequest(
            setting=setting,
            baseline=self._timed(self.baseline),
            candidates=tuple(map(self._timed, self.cells.values())),
            batches=streams(workloads, rows, seed=derive(self.baseline.identity.seed, "streams", task.name)),
            repeats=self.plan.repeats,
            warmup=self.plan.warmup,
            rounds=self.plan.rounds,
            memory=self.plan.memory,
        )

    def _timed(self, record: CellRecord) -> TimedModel:
        folder = self.survey.folder.model_folder(record.id).resolve()
        return TimedModel(record.id, folder, record.identity.method, record.identity.config)

    def _id(self, point: Point) -> str:
        """Identify a timing by what was timed, how, and where."""
        plan = self.plan.model_dump(
            mode="json",
            exclude={"tasks", "methods", "workloads", "runtimes", "seeds", "workloads_at_once", "device"},
        )
        where = [self.environment, self.device]
        return digest([point.candidate, self.baseline.id, point.workload, point.runtime, plan, where])

    def _keep(self, point: Point, timing: Timing, started: str) -> LatencyRecord:
        cell = self.cells[point.candidate]
        workload = Workload.parse(point.workload)
        record = LatencyRecord(
            id=self._id(point),
            environment=self.environment,
            suite_version=environment.package_version("moebert-bench"),
            started=started,
            finished=now(),
            warnings=list(timing.warnings),
            status=timing.status,
            reason=timing.reason,
            cell_id=cell.id,
            baseline_id=self.baseline.id,
            task=cell.task,
            method=cell.identity.method,
            label=cell.label,
            seed=cell.identity.seed,
            workload=WorkloadRecord(
                name=workload.name, batch_size=workload.batch_size, length=workload.length
            ),
            runtime=point.runtime,
            device=self.device,
            dtype=self.plan.dtype,
            threads=self.plan.threads,
            repeats=list(timing.repeats),
        )
        self.survey.folder.write(record)
        return record
