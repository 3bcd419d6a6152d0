"""What this machine has, and what that rules out."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil

from bench import assets
from bench.latency.runtimes import availability
from bench.registry import methods, runtimes, tasks
from results import environment
from results.timing import foreign_load


@dataclass(frozen=True)
class Finding:
    """One thing found: ``ok``, a ``note`` on what is ruled out, or ``bad``: nothing will run."""

    level: Literal["ok", "note", "bad"]
    text: str


def findings() -> Iterator[Finding]:
    """Look at cores, memory, disk, GPU, packages, network, caches and plugins."""
    here = environment.current()
    yield Finding("ok", f"Python {here.python} at {sys.executable}")
    yield _cores(here)
    memory = psutil.virtual_memory()
    level: Literal["ok", "note"] = "ok" if memory.available > 4 * 2**30 else "note"
    yield Finding(
        level,
        f"memory: {memory.available / 2**30:.1f} of {memory.total / 2**30:.1f} GiB free (quickstart: 4)",
    )
    disk = shutil.disk_usage(Path.cwd())
    yield Finding("ok" if disk.free > 5 * 2**30 else "note", f"disk: {disk.free / 2**30:.0f} GiB free here")
    if here.gpus:
        yield Finding("ok", f"GPU: {', '.join(here.gpus)} ({here.driver})")
    else:
        yield Finding(
            "note", "no CUDA device: training and timing run on the CPU in fp32; `pytest -m gpu` cannot run"
        )
    for name in environment.PACKAGES:
        version = here.packages.get(name)
        if version:
            yield Finding("ok", f"{name} {version}")
        elif name != "triton":
            yield Finding("bad", f"{name} is not installed; `pip install moebert-bench` brings it")
    yield from _caches()
    yield _network()
    for registry in (methods, tasks):
        yield Finding("ok", f"{registry.kind}s: {', '.join(registry.names())}")
    for name in runtimes.names():
        where = availability(runtimes.get(name)())
        yield Finding("note" if where.startswith("not here") else "ok", f"runtime {name}: {where}")


def _cores(here: environment.Environment) -> Finding:
    load = os.getloadavg()[0]
    text = f"{here.cores} cores ({here.cpu}), load {load:.1f}"
    if load >= foreign_load(1, here.cores):
        return Finding("note", f"{text}: timings will carry a warning")
    return Finding("ok", text)


def _caches() -> Iterator[Finding]:
    folder = assets.cache_folder()
    writable = os.access(next(path for path in (folder, *folder.parents) if path.exists()), os.W_OK)
    remedy = "" if writable else " is not writable; set MOEBENCH_CACHE to a folder that is"
    yield Finding("ok" if writable else "bad", f"cache: {folder}{remedy}")
    for state in assets.states():
        missing = "" if state.state == "present" else "; `moebench assets fetch` gets it"
        yield Finding(
            "ok" if not missing else "note", f"asset {state.name} {state.version}: {state.state}{missing}"
        )
    data = os.environ.get("MOEBENCH_DATA")
    if data and not Path(data).is_dir():
        yield Finding("bad", f"MOEBENCH_DATA={data}: no such folder")
    elif data:
        yield Finding("ok", f"MOEBENCH_DATA: {data}")
    else:
        yield Finding("note", "MOEBENCH_DATA is not set: tasks from a directory need --data")


def _network() -> Finding:
    try:
        socket.create_connection(("huggingface.co", 443), timeout=2).close()
    except OSError:
        return Finding("note", "the model hub cannot be reached: use embedded or local checkpoints and data")
    return Finding("ok", "the model hub can be reached")
