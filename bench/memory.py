"""Peak memory of a piece of work, on the device that does it."""

from __future__ import annotations

import resource
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

_STATUS = Path("/proc/self/status")


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, where the system allows it (on Linux, and on every GPU)."""
    if device.type == "cuda":
        import torch

        torch.cuda.reset_peak_memory_stats(device)
        return
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        try:
            clear.write_text("5")  # resets VmHWM, the peak resident set
        except OSError:  # a container may forbid it: then the peak is the process's, an upper bound
            return


def peak_memory_bytes(device: torch.device) -> int:
    """Return the peak since the reset: allocated on a GPU, resident in the process on a CPU."""
    if device.type == "cuda":
        import torch

        return int(torch.cuda.max_memory_allocated(device))
    return peak_resident_bytes()


def peak_resident_bytes() -> int:
    """Return this process's peak resident memory, since the reset where there was one."""
    if _STATUS.exists():
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, others KiB
