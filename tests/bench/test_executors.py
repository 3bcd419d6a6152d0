from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.events import Event
from bench.executors import processes
from bench.executors.processes import run_in_processes


@dataclass(frozen=True)
class FakeRecord:
    id: str
    status: str = "done"
    reason: str = ""


@dataclass(frozen=True)
class FakeJob:
    """A cell that counts how often it is made, and may take its process down."""

    cell_id: str
    folder: Path
    deaths: int = 0

    @property
    def name(self) -> str:
        return self.cell_id


def make(job: FakeJob, listener) -> FakeRecord:
    listener(Event("started", job.name))
    tries = len(list(job.folder.glob(f"{job.cell_id}.*")))
    (job.folder / f"{job.cell_id}.{tries}").write_text(os.environ["OMP_NUM_THREADS"])
    if tries < job.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    listener(Event("finished", job.name, status="done"))
    return FakeRecord(job.cell_id)


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(processes, "run_watched", make)
    monkeypatch.setattr(
        "bench.cell.record_failure", lambda job, reason, details: FakeRecord(job.cell_id, "failed", reason)
    )


@pytest.mark.usefixtures("fake")
def test_every_cell_is_made_once_with_its_own_threads(tmp_path):
    events: list[Event] = []
    jobs = [FakeJob(name, tmp_path) for name in "abcd"]
    records = list(run_in_processes(jobs, 2, 3, events.append))
    assert sorted(record.id for record in records) == list("abcd")
    assert {file.name: file.read_text() for file in tmp_path.iterdir()} == {
        f"{name}.0": "3" for name in "abcd"
    }
    assert sorted(event.cell for event in events if event.kind == "finished") == list("abcd")


ORPHAN = """
import os, sys, time
from pathlib import Path
from bench.executors import processes

def linger(job, listener):
    Path(job, str(os.getpid())).touch()
    time.sleep(120)

processes.run_watched = linger
list(processes._pool([sys.argv[1]] * 2, 2, 1, type("Queue", (), {"put": print})))
"""


def test_workers_end_when_the_run_is_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    workers = tmp_path / "workers"
    workers.mkdir()
    process = subprocess.Popen([sys.executable, script, workers])
    while process.poll() is None and len(list(workers.iterdir())) < 2:
        time.sleep(0.05)
    pids = [int(file.name) for file in workers.iterdir()]
    assert len(pids) == 2
    process.kill()
    process.wait()
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "the workers outlive the run"
        time.sleep(0.1)


@pytest.mark.usefixtures("fake")
@pytest.mark.parametrize(("deaths", "status"), [(1, "done"), (9, "failed")])
def test_a_worker_that_dies_costs_the_other_cells_nothing(tmp_path, deaths, status):
    jobs = [FakeJob("a", tmp_path), FakeJob("killer", tmp_path, deaths), FakeJob("b", tmp_path)]
    records = {record.id: record for record in run_in_processes(jobs, 2, 1, lambda event: None)}
    assert {name: record.status for name, record in records.items()} == {
        "a": "done",
        "b": "done",
        "killer": status,
    }
    if status == "failed":
        assert "its process died" in records["killer"].reason
