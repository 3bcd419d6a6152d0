from __future__ import annotations

import gc
import os
import sys
import weakref
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from toy_inputs import toy_inputs

from bench.latency import processes, worker
from bench.latency.clock import Point, time_cells, time_grid
from bench.latency.job import Answer, MemoryJob, TimedModel, TimeJob
from bench.latency.processes import DeathError, Processes
from bench.toys import toy_teacher


def test_every_repeat_is_a_job_and_holds_all_calls(request_for: Any, jobs: list[TimeJob]) -> None:
    request = request_for("teacher", "twice")
    found = time_cells(request)
    assert len(jobs) == 2
    assert list(found) == [(name, load) for load in ("1x8", "4x12") for name in ("teacher", "twice")]
    for timing in found.values():
        assert timing.status == "done"
        assert len(timing.repeats) == 2
        for repeat in timing.repeats:
            assert repeat.warmup == 1
            assert len(repeat.baseline_ms) == len(repeat.candidate_ms) == 4
            assert all(ms > 0 for ms in repeat.baseline_ms + repeat.candidate_ms)
            assert repeat.baseline_peak_memory_bytes is repeat.candidate_energy_mj is None


def test_those_that_cannot_be_loaded_or_run_do_not_lose_the_others(
    request_for: Any, jobs: list[TimeJob], tmp_path: Path
) -> None:
    request = request_for("teacher", "breaks", "alone-only", "unheard-of")
    missing = TimedModel("missing", tmp_path / "nowhere")
    found = time_cells(replace(request, candidates=(*request.candidates, missing)))
    said = {point: (timing.status, timing.reason, len(timing.repeats)) for point, timing in found.items()}
    broken = ("failed", "the candidate cannot be run: RuntimeError: no kernel for this", 0)
    assert said["teacher", "1x8"] == said["teacher", "4x12"] == said["alone-only", "1x8"] == ("done", "", 2)
    assert said["breaks", "1x8"] == said["breaks", "4x12"] == broken
    assert said["alone-only", "4x12"] == ("skipped", "eager takes one row at a time", 0)
    status, reason, _ = said["unheard-of", "1x8"]
    assert status == "failed"
    assert "unknown method 'unheard-of'" in reason
    assert said["missing", "1x8"][1] == f"cannot be loaded: there is no folder {tmp_path / 'nowhere'}"
    # the second process is not bothered with what is lost already
    assert [model.id for model in jobs[1].candidates] == ["teacher", "alone-only"]
    assert ("alone-only", "4x12") not in jobs[1].points


def test_a_baseline_that_cannot_be_loaded_is_named_once(
    request_for: Any, jobs: list[TimeJob], tmp_path: Path
) -> None:
    request = replace(request_for("teacher", "twice"), baseline=TimedModel("gone", tmp_path / "gone"))
    reasons = {timing.reason for timing in time_cells(request).values()}
    assert reasons == {f"the baseline cannot be loaded: there is no folder {tmp_path / 'gone'}"}
    assert len(jobs) == 1


def test_more_tokens_than_positions_are_skipped_with_the_numbers(
    request_for: Any, jobs: list[TimeJob]
) -> None:
    found = time_cells(request_for("teacher", batches={"1x8": toy_inputs(1, 8), "1x100": toy_inputs(1, 100)}))
    assert found["teacher", "1x8"].status == "done"
    assert found["teacher", "1x100"].status == "skipped"
    assert (
        found["teacher", "1x100"].reason == "the baseline has positions for 64 tokens, the workload has 100"
    )


def test_every_shape_of_real_lengths_is_met_before_anything_counts(
    request_for: Any, jobs: list[TimeJob]
) -> None:
    real = [batch for length in (5, 7, 9, 7, 11) for batch in toy_inputs(2, length, count=1)]
    (timing,) = time_cells(request_for("teacher", batches={"2xreal": real})).values()
    assert [repeat.warmup for repeat in timing.repeats] == [4, 4]
    assert len(timing.repeats[0].candidate_ms) == 4 + 3


def test_warnings_of_a_process_reach_the_timing(
    request_for: Any, jobs: list[TimeJob], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    count = tmp_path / "cpu0" / "thermal_throttle" / "core_throttle_count"
    count.parent.mkdir(parents=True)
    count.write_text("3")
    monkeypatch.setattr(worker, "CORES", tmp_path)
    assert not any(timing.warnings for timing in time_cells(request_for("teacher")).values())

    def hotter(*args: Any, **kwargs: Any) -> Any:
        count.write_text("4")
        return real(*args, **kwargs)

    real = worker.interleave
    monkeypatch.setattr(worker, "interleave", hotter)
    found = time_cells(request_for("teacher", repeats=1))
    assert found["teacher", "1x8"].warnings == ("clock throttled",)


def test_only_the_baseline_and_one_candidate_hold_memory(
    request_for: Any, jobs: list[TimeJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[weakref.ref[Any]] = []
    alive = []

    def prepare(*args: Any) -> Any:
        alive.append(sum(run() is not None for run in prepared))
        run = real_prepare(*args)
        run.itself = run  # a circle, as a compiled model's parts may be
        prepared.append(weakref.ref(run))
        return run

    real_prepare = worker._prepare
    monkeypatch.setattr(worker, "_prepare", prepare)
    gc.disable()  # what nobody collects stays
    try:
        request = request_for("teacher", "twice", "alone-only", batches={"1x8": toy_inputs(1, 8)}, repeats=1)
        found = time_cells(request)
    finally:
        gc.enable()
    assert {timing.status for timing in found.values()} == {"done"}
    assert alive == [0, 1, 1, 1]  # when the baseline and the three candidates are prepared


def test_memory_is_read_small_workloads_first_and_kept_in_the_first_repeat(
    request_for: Any, jobs: list[TimeJob | MemoryJob]
) -> None:
    listed = {"4x12": toy_inputs(4, 12), "1x8": toy_inputs(1, 8)}
    found = time_cells(request_for("teacher", "breaks", memory=True, batches=listed))
    weighed = [job for job in jobs if isinstance(job, MemoryJob)]
    assert [(job.model.id, job.workloads) for job in weighed] == [
        ("baseline", ("1x8", "4x12")),
        ("teacher", ("1x8", "4x12")),
    ]
    first, second = found["teacher", "4x12"].repeats
    assert first.baseline_peak_memory_bytes > 10**7
    assert first.candidate_peak_memory_bytes > 10**7
    assert second.baseline_peak_memory_bytes is None


def test_a_peak_that_cannot_be_reset_is_not_passed_off_as_the_models(
    request_for: Any, jobs: list[TimeJob | MemoryJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "peak_memory_bytes", lambda device: 2**40)  # that of the loading, still
    (timing,) = time_cells(request_for("twice", memory=True, batches={"1x8": toy_inputs(1, 8)})).values()
    assert timing.status == "done"
    assert timing.repeats[0].candidate_peak_memory_bytes is None


def test_weights_are_in_memory_and_not_in_a_mapped_file(request_for: Any) -> None:
    request = request_for()
    loaded = worker._load(request.baseline, request.setting)
    assert isinstance(loaded, worker._Contender)
    mapped = Path("/proc/self/maps")
    if not mapped.exists():
        pytest.skip("this system does not list what is mapped")
    assert str(request.baseline.folder) not in mapped.read_text()
    teacher = toy_teacher(request.setting.task).state_dict()
    assert all(torch.equal(tensor, teacher[name]) for name, tensor in loaded.model.state_dict().items())


def test_a_baseline_beside_itself_is_weighed_once(request_for: Any, jobs: list[TimeJob | MemoryJob]) -> None:
    request = request_for("teacher", memory=True, repeats=1)
    (first, _) = time_cells(replace(request, baseline=request.candidates[0])).values()
    assert [job.kind for job in jobs] == ["time", "memory"]
    assert first.repeats[0].candidate_peak_memory_bytes == first.repeats[0].baseline_peak_memory_bytes > 10**7


def test_a_grid_that_is_stopped_goes_on_where_it_was(request_for: Any, jobs: list[TimeJob]) -> None:
    listed = {f"{size}x8": toy_inputs(size, 8, count=1) for size in (1, 2, 3, 4, 5)}
    request = request_for("teacher", "twice", batches=listed, repeats=1)
    whole = {Point(name, workload, "eager") for name in ("teacher", "twice") for workload in listed}

    def grid(known: set[Point]) -> Any:
        return time_grid(request, ["eager"], known=known, workloads_at_once=2)

    stopped = grid(set())
    known = {next(stopped)[0] for _ in range(3)}  # as if killed after three points were stored
    stopped.close()
    assert len(jobs) == 1
    jobs.clear()
    rest = dict(grid(known))
    assert set(rest) == whole - known
    assert all(timing.status == "done" for timing in rest.values())
    assert [job.points for job in jobs] == [
        (("twice", "2x8"),),
        (("teacher", "3x8"), ("twice", "3x8"), ("teacher", "4x8"), ("twice", "4x8")),
        (("teacher", "5x8"), ("twice", "5x8")),
    ]
    jobs.clear()
    assert dict(grid(whole)) == {}
    assert jobs == []


def test_points_are_known_by_their_runtime(request_for: Any, jobs: list[TimeJob]) -> None:
    request = request_for("teacher", batches={"1x8": toy_inputs(1, 8)}, repeats=1)
    known = {Point("teacher", "1x8", "captured")}
    assert [point for point, _ in time_grid(request, ["eager"], known=known)] == [
        Point("teacher", "1x8", "eager")
    ]


def test_the_environment_of_a_process_names_its_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MKL_NUM_THREADS", "64")
    environment = processes._environment(3)
    assert {environment[name] for name in processes.THREAD_VARIABLES} == {"3"}
    assert environment["PATH"] == os.environ["PATH"]


def test_a_candidate_that_kills_the_process_is_found_and_the_others_are_timed(
    request_for: Any, jobs: list[TimeJob], monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Processes.ask

    def ask(own: Processes, job: TimeJob) -> Answer:
        if any(model.id == "aborts" for model in job.candidates):
            raise DeathError("the timing process ended by SIGABRT: it wrote nothing")
        return answer(own, job)

    monkeypatch.setattr(Processes, "ask", ask)
    found = time_cells(request_for("teacher", "aborts", "twice", batches={"1x8": toy_inputs(1, 8)}))
    assert {name: (timing.status, len(timing.repeats)) for (name, _), timing in found.items()} == {
        "teacher": ("done", 2),
        "aborts": ("failed", 0),
        "twice": ("done", 2),
    }
    assert found["aborts", "1x8"].reason == "the timing process ended by SIGABRT: it wrote nothing"
    assert [[model.id for model in job.candidates] for job in jobs] == [
        ["teacher"],
        ["twice"],
        ["teacher", "twice"],
    ]


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("seq 100; echo the end >&2; exit 3", "the timing process ended with exit code 3: 82\n83\n"),
        ("kill -ABRT $$", "the timing process ended by SIGABRT: it wrote nothing"),
        ("exit 0", "the timing process ended with exit code 0: it wrote nothing"),
    ],
)
def test_a_process_without_an_answer_is_quoted(
    request_for: Any, script: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executable = tmp_path / "python"
    executable.write_text(f"#!/bin/sh\n{script}\n")
    executable.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(executable))
    (timing,) = time_cells(request_for("teacher", batches={"1x8": toy_inputs(1, 8)})).values()
    assert timing.status == "failed"
    assert timing.reason.startswith(reason)
    assert len(timing.reason.splitlines()) <= processes.STDERR_LINES


def test_a_runtime_that_cannot_run_here_skips_its_points_and_says_why(request_for: Any, jobs: Any) -> None:
    request = request_for("teacher", "twice")
    points = dict(time_grid(request, ["cuda-graph", "eager"]))
    assert {point.runtime: timing.status for point, timing in points.items()} == {
        "cuda-graph": "skipped",
        "eager": "done",
    }
    skipped = [timing for point, timing in points.items() if point.runtime == "cuda-graph"]
    assert len(skipped) == 4
    assert all("CUDA graphs need a CUDA device" in timing.reason for timing in skipped)


def test_a_runtime_skips_the_models_that_it_does_not_know_and_times_the_others(
    request_for: Any, jobs: Any
) -> None:
    request = request_for("teacher", "twice")
    request = replace(request, setting=replace(request.setting, runtime="lean"))
    found = time_cells(request)
    why = "the lean encoder cannot run this model: BertForSequenceClassification has a forward of its own"
    for workload in ("1x8", "4x12"):
        assert found["teacher", workload].status == "done"
        assert (found["twice", workload].status, found["twice", workload].reason) == ("skipped", why)
    turned = time_cells(replace(request, baseline=request.candidates[1]))
    assert {(timing.status, timing.reason) for timing in turned.values()} == {
        ("skipped", f"the baseline {why}")
    }


def test_energy_stands_beside_peak_memory(
    request_for: Any, jobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "energy_mj", lambda device, run, batches: float(batches))
    (repeat, *others) = time_cells(request_for("teacher", memory=True))["teacher", "1x8"].repeats
    assert (repeat.baseline_energy_mj, repeat.candidate_energy_mj) == (2.0, 2.0)
    assert all(other.candidate_energy_mj is None for other in others)
