from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from waiting import wait_until

from bench.events import Event
from bench.executors import processes
from bench.executors.processes import Workers


@dataclass(frozen=True)
class FakeRecord:
    id: str
    status: str = "done"
    reason: str = ""
    process: int = field(default_factory=os.getpid)


@dataclass(frozen=True)
class FakeJob:
    """A cell that counts how often it is made, may wait for another's making, and may take its process down."""

    cell_id: str
    folder: Path
    deaths: int = 0
    after: str = ""

    @property
    def name(self) -> str:
        return self.cell_id


def make(job: FakeJob, listener) -> FakeRecord:
    listener(Event("started", job.name))
    tries = len(list(job.folder.glob(f"{job.cell_id}.*")))
    (job.folder / f"{job.cell_id}.{tries}").write_text(os.environ["OMP_NUM_THREADS"])
    if tries < job.deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.after:
        wait_until((job.folder / job.after).exists, 120, f"there is no {job.after}")
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
    with Workers(4, 2, 3, events.append) as workers:
        records = list(workers.make(jobs))
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

if __name__ == "__main__":
    processes.run_watched = linger
    with processes.Workers(2, 2, 1, print) as workers:
        list(workers.make([sys.argv[1]] * 2))
"""


def test_no_process_outlives_a_run_that_is_killed(tmp_path):
    script = tmp_path / "orphan.py"
    script.write_text(ORPHAN)
    workers = tmp_path / "workers"
    workers.mkdir()
    process = subprocess.Popen([sys.executable, script, workers])
    while len(list(workers.iterdir())) < 2:
        assert process.poll() is None, "the run ended by itself"
        time.sleep(0.05)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    assert {file.name for file in workers.iterdir()} < set(children)
    process.kill()
    process.wait()
    wait_until(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in children),
        20,
        f"some of the processes {children} outlive the run",
    )


@pytest.mark.usefixtures("fake")
def test_workers_stay_for_the_next_batch_unless_one_died(tmp_path):
    def processes_of(names: str, deaths: int = 0) -> set[int]:
        records = list(workers.make([FakeJob(name, tmp_path, deaths) for name in names]))
        assert {record.status for record in records} <= {"done"}
        assert sorted(record.id for record in records) == sorted(names)
        return {record.process for record in records}

    with Workers(2, 2, 1, lambda event: None) as workers:
        assert not processes_of("")
        first = processes_of("a") | processes_of("bcd") | processes_of("ef")
        assert len(first) <= 2
        os.kill(min(first), signal.SIGKILL)  # while idle: no cell is to blame, none is made alone
        while any(Path(f"/proc/{process}").exists() for process in first):
            time.sleep(0.05)  # until the pool is seen to be broken; a test has at most five minutes
        second = processes_of("ghijkl")
        assert len(second) <= 2
        assert not first & second
        stopped = workers.make([FakeJob(name, tmp_path) for name in "mnop"])
        next(stopped)
        stopped.close()
        third = processes_of("q")
        assert not second & third
        processes_of("r", deaths=1)  # made in its second process
        assert not third & processes_of("st")
    assert {file.name for file in tmp_path.glob("[a-lq-t].*")} == {
        *(f"{name}.0" for name in "abcdefghijklqrst"),
        "r.1",
    }


def rehearse(job: FakeJob) -> None:
    (job.folder / f"rehearsal.{os.getpid()}.{time.monotonic_ns()}").touch()


def make_during_rehearsals(job: FakeJob, listener) -> FakeRecord:
    """Give each rehearsal that is asked for with this cell the time to begin."""
    wait_until(lambda: list(job.folder.glob("rehearsal.*")), 60, "nobody rehearses")
    time.sleep(2)
    return FakeRecord(job.cell_id)


def test_workers_that_the_first_batch_leaves_idle_rehearse_its_first_cell(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "run_watched", make_during_rehearsals)
    monkeypatch.setattr(processes, "_rehearse", rehearse)
    with Workers(2, 2, 1, lambda event: None) as workers:
        (record,) = workers.make([FakeJob("a", tmp_path)])
        list(workers.make([FakeJob("b", tmp_path)]))
    (rehearsal,) = tmp_path.glob("rehearsal.*")
    assert str(record.process) not in rehearsal.name.split(".")


def die(job: FakeJob) -> None:
    rehearse(job)
    time.sleep(1)
    os.kill(os.getpid(), signal.SIGKILL)


def make_or_wait_for_death(job: FakeJob, listener) -> FakeRecord:
    """Be under way when the rehearsal dies, and be made in no time after that."""
    tries = len(list(job.folder.glob(f"{job.cell_id}.*")))
    (job.folder / f"{job.cell_id}.{tries}").touch()
    if tries == 0:
        time.sleep(60)
    return FakeRecord(job.cell_id)


def test_a_rehearsal_that_dies_puts_no_cell_under_suspicion(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "run_watched", make_or_wait_for_death)
    monkeypatch.setattr(processes, "_rehearse", die)
    with Workers(3, 3, 1, lambda event: None) as workers:
        records = list(workers.make([FakeJob("a", tmp_path), FakeJob("b", tmp_path)]))
        assert {record.id: record.status for record in records} == {"a": "done", "b": "done"}
        assert all(Path(f"/proc/{record.process}").exists() for record in records), (
            "a cell that is made alone has a process that ends with it"
        )
    assert len(list(tmp_path.glob("rehearsal.*"))) == 1
    assert {file.name for file in tmp_path.glob("[ab].*")} == {"a.0", "a.1", "b.0", "b.1"}


def grow(job: FakeJob, listener) -> FakeRecord:
    """Keep more memory than loky takes for a leak."""
    hoard.append(b"1" * 4 * 10**8)
    time.sleep(1.1)  # it looks once a second
    return FakeRecord(job.cell_id)


hoard: list[bytes] = []


def test_a_worker_that_has_grown_is_kept(tmp_path, monkeypatch):
    monkeypatch.setattr(processes, "run_watched", grow)
    with Workers(3, 1, 1, lambda event: None) as workers:
        records = list(workers.make([FakeJob(name, tmp_path) for name in "abc"]))
    assert len({record.process for record in records}) == 1


@pytest.mark.usefixtures("fake")
def test_a_worker_that_dies_costs_the_other_cells_nothing(tmp_path):
    beside = FakeJob("a", tmp_path, after="killer.1")  # under way until the killer's death takes it along
    jobs = [FakeJob("killer", tmp_path, deaths=9), beside, *(FakeJob(name, tmp_path) for name in "bcdef")]
    with Workers(7, 2, 1, lambda event: None) as workers:
        records = {record.id: record for record in workers.make(jobs)}
    assert {name: record.status for name, record in records.items()} == {
        "killer": "failed",
        **dict.fromkeys("abcdef", "done"),
    }
    assert "its process died" in records["killer"].reason
    assert len({records[name].process for name in "bcdef"}) <= 2, (
        "they are made side by side, not one at a time"
    )
