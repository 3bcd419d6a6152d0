"""What a measurement was made on; two environments never share a speed-up."""

from __future__ import annotations

import hashlib
import os
import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil
from pydantic import BaseModel, ConfigDict

from results.record import digest

PACKAGES = ("torch", "transformers", "tokenizers", "datasets", "evaluate", "textbrewer", "numpy", "triton")


class Environment(BaseModel):
    """Hardware and software that decide a result; the id is the digest of all fields.

    Attributes:
        machine: Digest that tells two machines apart without naming them.
        cpu: Model name.
        cores: Logical processors.
        memory_gib: Installed, rounded.
        gpus: Name of every visible CUDA device.
        driver: Of the GPU; empty without one.
        packages: Name -> version of what computes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    machine: str
    system: str
    cpu: str
    cores: int
    memory_gib: int
    gpus: tuple[str, ...]
    driver: str
    python: str
    packages: dict[str, str]

    @property
    def id(self) -> str:
        """Digest of all fields."""
        return digest(self.model_dump(mode="json"))


@cache
def current() -> Environment:
    """Describe this process's environment."""
    gpus, driver = _gpus()
    return Environment(
        machine=hashlib.sha256(_machine_name()).hexdigest()[:12],
        system=f"{platform.system()} {platform.machine()}",
        cpu=cpu_model(),
        cores=os.cpu_count() or 1,
        memory_gib=round(psutil.virtual_memory().total / 2**30),
        gpus=gpus,
        driver=driver,
        python=platform.python_version(),
        packages={name: found for name in PACKAGES if (found := package_version(name))},
    )


def package_version(name: str) -> str:
    """Return the installed version of a package, or an empty string."""
    try:
        return version(name)
    except PackageNotFoundError:
        return ""


def cpu_model() -> str:
    """Return the processor's model name."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _machine_name() -> bytes:
    identity = Path("/etc/machine-id")
    text = identity.read_text() if identity.exists() else ""
    return f"moebench {text} {platform.node()}".encode()


def _gpus() -> tuple[tuple[str, ...], str]:
    import torch

    if not torch.cuda.is_available():
        return (), ""
    names = tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return names, f"CUDA {torch.version.cuda}, driver {_driver_version()}"


def _driver_version() -> str:
    loaded: Any = Path("/proc/driver/nvidia/version")
    if loaded.exists():
        words = loaded.read_text().split()
        return next((word for word in words if word.count(".") == 2 and word[0].isdigit()), "unknown")
    return "unknown"
