"""Run the cells on a GPU side by side, not in turns: NVIDIA's multi-process service for the length of a run."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.errors import UserError
from bench.executors.gpus import VISIBLE

CONTROL = "nvidia-cuda-mps-control"
PIPES = "CUDA_MPS_PIPE_DIRECTORY"
SECONDS = 30  # for the daemon to start or to end
GUARD = f'read line; echo quit | {CONTROL}; rm -rf "${PIPES}"'  # reading ends when the run does, however that ends


def require_service() -> None:
    """Refuse a machine without the service.

    Raises:
        UserError: Where the user has started none and it is not installed.
    """
    if not os.environ.get(PIPES) and shutil.which(CONTROL) is None:
        raise UserError(f"mps: there is no {CONTROL} on the path; it comes with the GPU's driver")


@contextmanager
def multi_process_service() -> Iterator[dict[str, str]]:
    """Start a service of this run's own; one that the user has started is used instead, and left running.

    It ends with the block, or with the process where that is killed outright.

    Yields:
        Environment variables that let a process take part.

    Raises:
        UserError: Where the service is not installed or does not start.
    """
    require_service()
    if os.environ.get(PIPES):
        yield {}
        return
    with TemporaryDirectory(prefix="moebench-mps-") as folder:
        variables = {PIPES: folder, "CUDA_MPS_LOG_DIRECTORY": folder}
        with _guarded(variables):
            _control(["-d"], variables, "")
            try:
                yield variables
            finally:
                _control([], variables, "quit\n")


@contextmanager
def _guarded(variables: dict[str, str]) -> Iterator[None]:
    """Leave the end of the service to a process that outlives this one, for as long as the block lasts."""
    with subprocess.Popen(
        ["sh", "-c", GUARD],
        env=_environment(variables),
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # a Ctrl-C is this process's affair
    ) as guard:
        try:
            yield
        finally:
            guard.kill()


def _environment(variables: dict[str, str]) -> dict[str, str]:
    # a service that sees some GPUs only counts them anew, and its clients would have to as well
    return {name: value for name, value in os.environ.items() if name != VISIBLE} | variables


def _control(arguments: list[str], variables: dict[str, str], command: str) -> None:
    try:
        subprocess.run(
            [CONTROL, *arguments],
            env=_environment(variables),
            input=command,
            timeout=SECONDS,
            check=True,
            capture_output=True,
            text=True,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", None) or error
        logged = Path(variables[PIPES], "control.log")
        last = logged.read_text(encoding="utf-8").splitlines()[-1:] if logged.exists() else []
        raise UserError(f"mps: {CONTROL} failed: {' '.join([str(said).strip(), *last])}") from error
