"""Fresh processes for the clock's jobs: they start up side by side, then work one at a time.

Starting up takes a process longer than many a job (some two thousand modules), and must not take cores from one that
measures. So several start together and wait, asleep, until each is given its job.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, cast

import psutil

from bench.latency.job import ANSWER, JOB, READY, TEACHER, Answer, MemoryJob, Setting, TimeJob

AT_ONCE = 4  # processes that wait at most: each holds half a gigabyte
STDERR_LINES = 20
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")


class DeathError(Exception):
    """A timing process ended without an answer."""


class Processes:
    """The processes of one folder of batches; those that were started and not needed end with it.

    Args:
        folder: Holds the batches; jobs and answers are written beside them.
        setting: What all jobs have in common.
        methods: Names of those whose models are timed, ``teacher`` among them or not.
    """

    def __init__(self, folder: Path, setting: Setting, methods: set[str]) -> None:
        self.folder = folder
        self.threads = setting.threads
        self.words = [setting.runtime, *sorted(methods - {TEACHER})]
        self._expected = 0
        self._waiting: deque[_Process] = deque()

    def __enter__(self) -> Processes:
        return self

    def __exit__(self, *error: type[BaseException] | BaseException | TracebackType | None) -> None:
        while self._waiting:
            self._waiting.popleft().give_up()

    def expect(self, jobs: int) -> None:
        """Say how many jobs are to come, so that no process starts for none."""
        self._expected = jobs

    def ask(self, job: TimeJob | MemoryJob) -> Answer:
        """Give a job to a process that knows nothing of others, and sleep until it has answered.

        Raises:
            DeathError: With the last lines that the process wrote.
        """
        if not self._waiting:
            self._start(min(max(self._expected, 1), AT_ONCE, psutil.cpu_count() or 1))
        self._expected -= 1
        answer = self.folder / "answer.json"
        answer.unlink(missing_ok=True)
        (self.folder / "job.json").write_bytes(JOB.dump_json(job))
        output, code = self._waiting.popleft().work()
        if code != 0 or not answer.exists():
            how = f"by {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
            tail = "\n".join(output.strip().splitlines()[-STDERR_LINES:])
            raise DeathError(f"the timing process ended {how}: {tail or 'it wrote nothing'}")
        return ANSWER.validate_json(answer.read_bytes())

    def _start(self, count: int) -> None:
        command = [sys.executable, "-P", "-m", "bench.latency.worker", str(self.folder), *self.words]
        for _ in range(count):
            self._waiting.append(_Process.of(command, _environment(self.threads)))
        for process in self._waiting:
            process.wait_until_ready()


@dataclass
class _Process:
    """A process that has been started.

    Attributes:
        written: What it wrote before it was ready.
    """

    process: subprocess.Popen[str]
    written: str = ""

    @classmethod
    def of(cls, command: list[str], environment: dict[str, str]) -> _Process:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,  # a line is written to it; its end tells the process that nobody waits any more
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=environment,
            text=True,
            errors="replace",
        )
        return cls(process)

    def wait_until_ready(self) -> None:
        """Sleep until it has started up, or has died over it."""
        for line in cast("IO[str]", self.process.stdout):
            if line.strip() == READY:
                return
            self.written += line

    def work(self) -> tuple[str, int]:
        """Let it do the job in its folder; return all it wrote and how it ended."""
        with self.process as process:
            with suppress(BrokenPipeError):  # it is dead already, and will be found so
                os.write(cast("IO[str]", process.stdin).fileno(), b"\n")
            output = cast("IO[str]", process.stdout).read()
        return self.written + output, process.returncode

    def give_up(self) -> None:
        """End it without a job."""
        self.process.kill()
        with self.process:
            pass


def _environment(threads: int) -> dict[str, str]:
    quiet = {"HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1", "TRANSFORMERS_VERBOSITY": "error"}
    return {**os.environ, **dict.fromkeys(THREAD_VARIABLES, str(threads)), **quiet}
