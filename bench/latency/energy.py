"""Energy of a call, by the GPU's own counter; it counts the whole board, and all that runs on it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

SECONDS = 1.0  # the counter moves every tenth of a second or so


def energy_mj(device: torch.device, call: Callable[[int], object], batches: int) -> float | None:
    """Return the millijoules of one call, averaged over a second of calls in turn; None where nothing counts them.

    Args:
        device: That the calls keep busy.
        call: Runs a batch.
        batches: Number of batches.
    """
    counter = _counter(device)
    if counter is None:
        return None
    import torch

    calls = 0
    torch.cuda.synchronize(device)
    started, before = time.perf_counter(), counter()
    while time.perf_counter() - started < SECONDS:
        for index in range(batches):
            call(index)
        torch.cuda.synchronize(device)
        calls += batches
    return (counter() - before) / calls


def _counter(device: torch.device) -> Callable[[], int] | None:
    """Find the counter of a GPU in millijoules (NVML; Volta or later, and the package nvidia-ml-py)."""
    if device.type != "cuda":
        return None
    try:
        import pynvml
    except ImportError:
        return None
    import torch

    nvml: Any = pynvml
    uuid = torch.cuda.get_device_properties(device).uuid
    try:
        nvml.nvmlInit()
        handle = nvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid}")
        nvml.nvmlDeviceGetTotalEnergyConsumption(handle)
    except nvml.NVMLError:
        return None
    return lambda: int(nvml.nvmlDeviceGetTotalEnergyConsumption(handle))
