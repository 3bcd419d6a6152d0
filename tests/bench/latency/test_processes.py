"""What only real processes show; all but one take their time."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from toy_inputs import toy_inputs

from bench.latency import clock, processes
from bench.latency.clock import time_cells
from bench.latency.job import JOB, MemoryJob, TimeJob


def test_a_real_process_is_slept_through(request_for: Any) -> None:
    request = request_for("twice", batches={"4x12": toy_inputs(4, 12)}, repeats=1)
    wall, own = time.perf_counter(), time.process_time()
    (timing,) = time_cells(request).values()
    wall, own = time.perf_counter() - wall, time.process_time() - own
    assert timing.status == "done", timing.reason
    assert len(timing.repeats[0].candidate_ms) == 4
    assert own < 0.05 * wall


STUB = """
import os, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def note(what):
    with (folder.parent / "notes").open("a") as file:
        file.write(what + chr(10))
note("start")
print("words of a library", flush=True)
print("ready for a job", flush=True)
if os.read(0, 1):
    note("begin")
    (folder / "answer.json").write_text('{"samples": [], "peak_memory_bytes": {}, "energy_mj": {}}')
    note("end")
"""


def test_none_starts_up_while_another_works_and_none_in_vain(
    request_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub, executable, folder = tmp_path / "stub.py", tmp_path / "python", tmp_path / "jobs"
    stub.write_text(STUB)
    executable.write_text(f'#!/bin/sh\nshift 3\nexec {sys.executable} {stub} "$@"\n')
    executable.chmod(0o755)
    folder.mkdir()
    monkeypatch.setattr(sys, "executable", str(executable))
    monkeypatch.setattr(processes.psutil, "cpu_count", lambda: 3)
    request = request_for("teacher")
    job = MemoryJob(request.setting, request.baseline, ("1x8",))

    def notes() -> list[str]:
        return (tmp_path / "notes").read_text().split()

    with processes.Processes(folder, request.setting, {"teacher"}) as own:
        own.expect(4)
        for _ in range(4):
            own.ask(job)
        assert notes() == ["start"] * 3 + ["begin", "end"] * 3 + ["start", "begin", "end"]
        own.expect(2)
        own.ask(job)
        waiting = own._waiting[0].process
    assert waiting.returncode is not None
    assert notes()[-4:] == ["start", "start", "begin", "end"]


@pytest.mark.slow
def test_a_model_that_really_aborts_takes_nobody_with_it(request_for: Any) -> None:
    found = time_cells(request_for("aborts", "teacher", batches={"1x8": toy_inputs(1, 8)}, repeats=1))
    assert found["teacher", "1x8"].status == "done"
    assert found["aborts", "1x8"].reason.startswith("the timing process ended by SIGABRT: ")


@pytest.mark.slow
@pytest.mark.parametrize("wait", [0, 20], ids=["starting up", "one at work, one waiting"])
def test_processes_whose_parent_is_killed_leave_too(request_for: Any, tmp_path: Path, wait: float) -> None:
    request = request_for("teacher", rounds=1_000_000)
    script = tmp_path / "parent.py"
    script.write_text(
        "import sys; from pathlib import Path\n"
        "from bench.latency.job import JOB; from bench.latency.processes import Processes\n"
        "folder = Path(sys.argv[1])\n"
        "job = JOB.validate_json((folder / 'job.json').read_bytes())\n"
        "with Processes(folder, job.setting, {'teacher'}) as processes:\n"
        "    processes.expect(2)\n"
        "    processes.ask(job)\n"
    )
    folder = tmp_path / "job"
    folder.mkdir()
    clock.write_batches(request.batches, folder / "batches.safetensors")
    points = (("teacher", "1x8"),)
    job = TimeJob(request.setting, request.baseline, request.candidates, points, 1, 1_000_000)
    (folder / "job.json").write_bytes(JOB.dump_json(job))

    def workers() -> list[str]:
        listed = subprocess.run(
            ["pgrep", "-f", f"bench.latency.worker {folder}"], capture_output=True, text=True
        )
        return listed.stdout.split()

    with subprocess.Popen([sys.executable, str(script), str(folder)]) as parent:
        while len(workers()) < 2:
            time.sleep(0.2)
        time.sleep(wait)
        parent.send_signal(signal.SIGKILL)
    for _ in range(150):
        if not workers():
            return
        time.sleep(0.2)
    pytest.fail(f"the timing process {workers()} outlived its parent")


@pytest.mark.slow
def test_a_planted_slowdown_is_found_by_the_living_clock(request_for: Any) -> None:
    found = time_cells(
        request_for("teacher", "twice", batches={"4x12": toy_inputs(4, 12)}, rounds=100, repeats=3)
    )
    ratio = {
        name: median(median(r.baseline_ms[1:]) / median(r.candidate_ms[1:]) for r in timing.repeats)
        for (name, _), timing in found.items()
    }
    assert ratio["teacher"] == pytest.approx(1, abs=0.15)
    assert ratio["twice"] == pytest.approx(0.5, abs=0.1)


@pytest.mark.gpu
def test_a_captured_model_is_timed_and_weighed_in_processes_of_its_own(request_for: Any) -> None:
    request = request_for(batches={"1x8": toy_inputs(1, 8)}, repeats=1, memory=True)
    setting = replace(request.setting, runtime="cuda-graph", device="cuda", dtype="bf16")
    request = replace(request, setting=setting, candidates=(request.baseline,))
    (timing,) = time_cells(request).values()
    assert timing.status == "done", timing.reason
    (repeat,) = timing.repeats
    assert all(0 < ms < 100 for ms in (*repeat.baseline_ms, *repeat.candidate_ms))
    assert repeat.candidate_peak_memory_bytes is not None
    assert repeat.candidate_peak_memory_bytes > 10**5
    assert repeat.baseline_energy_mj == repeat.candidate_energy_mj
    if find_spec("pynvml"):
        assert repeat.baseline_energy_mj is not None
        assert repeat.baseline_energy_mj > 0
