"""A process that has imported what takes seconds and forks itself: fresh processes that cost no imports.

A fork begins as its siblings do, before anything ran, and is a session and process group of its own.
"""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SERVER = """
import importlib, json, os, runpy, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print("ready", flush=True)
for line in sys.stdin:
    request = json.loads(line)
    child = os.fork()
    if child:
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        continue
    os.setsid()
    for place, name in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        os.dup2(os.open(name, os.O_RDONLY if place == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), place)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.argv = request["argv"]
    if request["module"]:
        runpy.run_module(request["module"], run_name="__main__", alter_sys=True)
    else:
        exec(compile(request["code"], "<code>", "exec"), {"__name__": "__main__"})
    break
"""


class Preloaded:
    """Run programs one after another, each in a fork of a process that has imported some modules.

    Args:
        modules: What the forks need not import again.
        folder: For their output.
    """

    def __init__(self, modules: Sequence[str], folder: Path) -> None:
        self._stdout, self._stderr = folder / "stdout", folder / "stderr"
        self._server = subprocess.Popen(
            [sys.executable, "-c", SERVER, *modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,  # so that what can be read is what select sees
            env=dict(os.environ),
        )
        assert self._read() == "ready"

    def __enter__(self) -> Preloaded:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._server.stdin is not None
        self._server.stdin.close()
        self._server.wait(timeout=60)
        assert self._server.stdout is not None
        self._server.stdout.close()

    def start(self, *words: str, module: str = "", code: str = "", cwd: Path | None = None) -> int:
        """Fork, run a module as ``python -m`` does or a text as ``python -c`` does, and return the process id."""
        request: dict[str, Any] = {
            "argv": [module or "-c", *words],
            "module": module,
            "code": code,
            "cwd": str(cwd or Path.cwd()),
            "environment": dict(os.environ),
            "stdout": str(self._stdout),
            "stderr": str(self._stderr),
        }
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(request).encode() + b"\n")
        return int(self._read())

    def running(self) -> bool:
        """Say whether the fork has not ended yet."""
        return not select.select([self._server.stdout], [], [], 0)[0]

    def wait(self) -> int:
        """Wait for the fork's end and return its exit code, that of a signal below zero."""
        return int(self._read())

    def output(self) -> tuple[str, str]:
        """Return what the fork wrote to its standard output and error."""
        return self._stdout.read_text(), self._stderr.read_text()

    def _read(self) -> str:
        assert self._server.stdout is not None
        return self._server.stdout.readline().decode().strip()
