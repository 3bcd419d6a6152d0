from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
import pytest
import yaml
from waiting import wait_until

from bench.errors import UserError
from bench.executors import executor, mps, processes
from bench.executors.mps import CONTROL, PIPES, multi_process_service
from bench.executors.processes import Workers
from bench.matrix import ExecutorPlan, load_matrix
from bench.run import run as run_matrix

DAEMON = """#!/bin/sh
echo "$@ $(cat) $CUDA_MPS_PIPE_DIRECTORY $CUDA_VISIBLE_DEVICES" >> "$SAID"
"""


@pytest.fixture
def said(tmp_path, monkeypatch):
    """A control program that writes down what it is told."""
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.setenv("SAID", str(tmp_path / "said"))
    return install(tmp_path, monkeypatch, DAEMON)


def install(tmp_path, monkeypatch, script):
    program = tmp_path / "bin" / CONTROL
    program.parent.mkdir()
    program.write_text(script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    return tmp_path / "said"


def test_the_service_lives_as_long_as_the_block(said):
    with multi_process_service() as variables:
        assert said.read_text().split() == ["-d", variables[PIPES]]
    assert [line.split() for line in said.read_text().splitlines()[1:]] == [["quit", variables[PIPES]]]
    assert PIPES not in os.environ, "what is timed afterwards has the GPU for itself"


def test_the_service_sees_every_gpu_so_that_its_clients_count_them_as_the_user_does(said, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    with multi_process_service() as variables:
        assert said.read_text().split() == ["-d", variables[PIPES]]


def test_it_ends_when_the_run_fails(said):
    with pytest.raises(KeyboardInterrupt), multi_process_service():
        raise KeyboardInterrupt
    assert "quit" in said.read_text()


ENDLESS = """
import time
from bench.executors.mps import PIPES, multi_process_service

with multi_process_service() as variables:
    print(variables[PIPES], flush=True)
    time.sleep(120)
"""


def test_it_ends_when_the_run_is_killed(said):
    run = subprocess.Popen([sys.executable, "-c", ENDLESS], stdout=subprocess.PIPE, text=True)
    folder = Path(run.stdout.readline().strip())
    assert folder.is_dir()
    run.kill()
    run.wait()
    wait_until(lambda: not folder.exists(), 20, f"{folder} is still there")
    assert [line.split() for line in said.read_text().splitlines()[1:]] == [["quit", str(folder)]]


def told(folder, command):
    """Ask NVIDIA's service for a list."""
    environment = {**os.environ, PIPES: str(folder)}
    done = subprocess.run(
        [CONTROL], env=environment, input=command, capture_output=True, text=True, timeout=30
    )
    return [int(word) for word in done.stdout.split() if word.isdigit()]


def daemons(folder):
    """Return the service's own processes, which have its folder in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(PIPES) == str(folder):
                found.append(process.pid)
        except psutil.Error:  # gone meanwhile, or of another user
            continue
    return found


@pytest.mark.gpu
@pytest.mark.skipif(shutil.which(CONTROL) is None, reason=f"there is no {CONTROL}")
def test_nvidias_service_ends_with_a_run_that_is_killed_while_two_cells_compute(tiny_matrix, monkeypatch):
    monkeypatch.delenv(PIPES, raising=False)
    matrix = yaml.safe_load(tiny_matrix.read_text())
    matrix |= {"seeds": [0, 1], "budget": {**matrix["budget"], "epochs": 100_000}}
    tiny_matrix.write_text(yaml.safe_dump(matrix))
    words = [
        "run",
        str(tiny_matrix),
        "--out",
        str(tiny_matrix.parent / "run"),
        "--cells-per-gpu",
        "2",
        "--mps",
    ]
    with TemporaryDirectory(prefix="mps-") as short:  # a socket's path has 107 characters at most
        environment = {**os.environ, "TMPDIR": short}
        run = subprocess.Popen([sys.executable, "-m", "bench.cli", *words], env=environment)
        try:
            folder = wait_until(
                lambda: next(Path(short).glob("moebench-mps-*"), None), 60, "no service starts"
            )
            (server,) = wait_until(lambda: told(folder, "get_server_list\n"), 60, "the service has no server")
            clients = wait_until(
                lambda: (pids := told(folder, f"get_client_list {server}\n"))[1:] and pids,
                60,
                "the server has not two clients",
            )
            assert server in daemons(folder)
        finally:
            run.kill()
            run.wait()
        wait_until(lambda: not folder.exists() and not daemons(folder), 60, "the service is still there")
        wait_until(lambda: not any(map(psutil.pid_exists, clients)), 60, "some cell is still there")


def test_a_service_of_the_users_is_left_alone(said, monkeypatch):
    monkeypatch.setenv(PIPES, "/run/mps")
    with multi_process_service() as variables:
        assert variables == {}
    assert not said.exists()


def test_without_the_program_the_error_says_where_it_comes_from(monkeypatch):
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.setattr(mps.shutil, "which", lambda name: None)
    with pytest.raises(UserError, match="comes with the GPU's driver"), multi_process_service():
        pass


def test_a_run_that_wants_what_is_not_there_leaves_nothing(tiny_matrix, monkeypatch):
    monkeypatch.delenv(PIPES, raising=False)
    monkeypatch.setattr(mps.shutil, "which", lambda name: None)
    matrix = load_matrix(str(tiny_matrix)).model_copy(
        update={"seeds": (0, 1), "executor": ExecutorPlan(name="processes", mps=True)}
    )
    out = tiny_matrix.parent / "run"
    with pytest.raises(UserError, match="comes with the GPU's driver"):
        run_matrix(matrix, out)
    assert not out.exists()


def test_a_service_that_does_not_start_says_why(tmp_path, monkeypatch):
    monkeypatch.delenv(PIPES, raising=False)
    script = '#!/bin/sh\necho "An instance is running" > $CUDA_MPS_LOG_DIRECTORY/control.log; exit 1\n'
    install(tmp_path, monkeypatch, script)
    with (
        pytest.raises(UserError, match=f"{CONTROL} failed: .*An instance is running"),
        multi_process_service(),
    ):
        pass


class Cell:
    """A cell that says which service its process takes part in."""

    def __init__(self, cell_id):
        self.cell_id = self.name = cell_id


@dataclass(frozen=True)
class Made:
    id: str
    service: str | None
    status: str = "done"


def make(cell, _listener):
    return Made(cell.cell_id, os.environ.get("CUDA_MPS_PIPE_DIRECTORY"))


def services_of(cells, plan):
    with executor(plan, len(cells), lambda event: None) as execute:
        return {made.service for made in execute(cells)}


def test_the_cells_of_a_run_take_part(said, monkeypatch):
    monkeypatch.setattr(processes, "run_watched", make)
    cells = [Cell("a"), Cell("b")]
    plan = ExecutorPlan(name="processes", workers=2, mps=True)
    services = services_of(cells, plan)
    assert services == {said.read_text().split()[1]}
    plan = plan.model_copy(update={"mps": False})
    assert services_of(cells, plan) == {None}


def faulty(cell, _listener):
    """A fault of the cell's, after which its process cannot use the GPU."""
    from bench.executors import processes as of_this_process

    lost = cell.cell_id == "faulty"
    of_this_process.usable = lambda: not lost
    return Made(cell.cell_id, None, "failed" if lost else "done")


def test_a_fault_on_the_gpu_stops_no_cell_but_its_own(monkeypatch):
    monkeypatch.setattr(processes, "run_watched", faulty)
    cells = [Cell("faulty"), *map(Cell, "abc")]
    with Workers(len(cells), 1, 1, lambda event: None) as workers:
        found = {made.id: made.status for made in workers.make(cells)}
    assert found == {"faulty": "failed", "a": "done", "b": "done", "c": "done"}
