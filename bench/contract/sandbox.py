"""See what a plugin's code writes and whom it calls, without trusting it to say so.

Python reports every opened file and socket to audit hooks; libraries that write from C are caught by looking at the
folders that such writes end up in: the working directory and the home. This guards against carelessness, not malice.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

CACHES = ("__pycache__", "torchinductor_")  # of Python and torch, made by whoever imports first

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_PATH_EVENTS = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
_NETWORK_EVENTS = {
    "socket.connect",
    "socket.bind",
    "socket.getaddrinfo",
    "socket.gethostbyname",
    "socket.sendto",
}


@dataclass
class Sandbox:
    """What code did while it was watched.

    Attributes:
        folders: Where it may write.
        writes: Paths that it wrote elsewhere or left behind.
        calls: Attempts to reach the network, all refused.
    """

    folders: list[Path]
    writes: list[str] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)

    def allows(self, path: str) -> bool:
        """Say whether a path may be written; caches and devices are nobody's business."""
        full = os.path.realpath(path)
        if full.startswith(("/dev/", "/proc/")) or any(cache in full for cache in CACHES):
            return True
        return any(full == str(folder) or full.startswith(f"{folder}{os.sep}") for folder in self.folders)


_active: Sandbox | None = None
_installed = False


@contextmanager
def watch(folder: Path) -> Iterator[Sandbox]:
    """Give the code inside a home, a working directory and a temporary folder of its own, and watch it.

    Args:
        folder: Where it may write, beside the temporary folder, which must be empty again at the end.
    """
    global _active, _installed  # noqa: PLW0603 - an audit hook cannot be removed, only told to look away
    if not _installed:
        sys.addaudithook(_audit)
        _installed = True
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        home, working, temporary = (root / part for part in ("home", "working", "temporary"))
        for own in (home, working, temporary):
            own.mkdir()
        sandbox = Sandbox([folder.resolve(), temporary])
        with _moved(home, working, temporary):
            _active = sandbox
            try:
                yield sandbox
            finally:
                _active = None
        left = [str(path.relative_to(root)) for own in (home, working, temporary) for path in own.rglob("*")]
        sandbox.writes += [path for path in left if not any(cache in path for cache in CACHES)]


@contextmanager
def _moved(home: Path, working: Path, temporary: Path) -> Iterator[None]:
    names = {"HOME": home, "XDG_CACHE_HOME": home / ".cache", "TMPDIR": temporary}
    before = {name: os.environ.get(name) for name in names}
    directory, path, usual = Path.cwd(), list(sys.path), tempfile.tempdir
    os.environ.update({name: str(folder) for name, folder in names.items()})
    sys.path[:] = [str(Path(entry).resolve()) for entry in path]  # "" means the working directory
    tempfile.tempdir = None
    os.chdir(working)
    try:
        yield
    finally:
        os.chdir(directory)
        tempfile.tempdir = usual
        sys.path[:] = path
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def _audit(event: str, args: tuple[Any, ...]) -> None:
    """Take note of writes, and refuse the network while a sandbox is active."""
    sandbox = _active
    if sandbox is None:
        return
    if event == "open":
        path, mode, flags = args
        writing = set(mode) & set("wxa+") if isinstance(mode, str) else flags & _WRITING
        if writing and isinstance(path, str | bytes | os.PathLike):
            _note(sandbox, path)
    elif event in _PATH_EVENTS:
        for path in args[:2]:
            if isinstance(path, str | bytes | os.PathLike):
                _note(sandbox, path)
    elif event in _NETWORK_EVENTS:
        address = next((arg for arg in args if isinstance(arg, tuple | str)), "")
        if not (event == "socket.connect" and isinstance(address, str)):  # a path: a socket of this machine
            sandbox.calls.append(f"{event} {address}")
            raise ConnectionRefusedError("the network is out of reach here")


def _note(sandbox: Sandbox, path: str | bytes | os.PathLike[Any]) -> None:
    name = os.fsdecode(path)
    if not sandbox.allows(name) and name not in sandbox.writes:
        sandbox.writes.append(name)
