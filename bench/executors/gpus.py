"""Which GPU a worker process has, and how much of its memory; several workers may share one."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import UserError

if TYPE_CHECKING:
    from bench.matrix import ExecutorPlan

VISIBLE = "CUDA_VISIBLE_DEVICES"
LEAVING_SECONDS = 30  # that a worker which is replaced may take to end, and to give its place back
OVERHEAD_BYTES = 2**30  # of a process on a GPU beside its tensors: context, kernels, libraries


def places(plan: ExecutorPlan) -> list[str]:
    """Name the GPU of each worker as CUDA_VISIBLE_DEVICES does, every GPU once before any a second time.

    Returns:
        As many names as workers fit; none where there is no GPU.

    Raises:
        UserError: Where the plan names a GPU that is not there.
    """
    import torch

    count = torch.cuda.device_count()
    if missing := [index for index in plan.devices if index >= count]:
        raise UserError(f"there is no GPU {missing[0]}; this machine shows {count}, counted from 0")
    names = (
        os.environ.get(VISIBLE, "").split(",") if os.environ.get(VISIBLE) else list(map(str, range(count)))
    )
    chosen: Sequence[int] = plan.devices or range(count)
    return [names[index] for _ in range(plan.cells_per_gpu) for index in chosen]


def take(places: Sequence[str], locks: Path) -> str:
    """Take the first place that no living process has, until this process ends.

    Args:
        places: As many as there are workers, or more.
        locks: Folder of this pool of workers alone.
    """
    deadline = time.monotonic() + LEAVING_SECONDS
    while time.monotonic() < deadline:
        for number, place in enumerate(places):
            descriptor = os.open(locks / str(number), os.O_CREAT | os.O_RDWR)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
            else:
                return place  # the descriptor stays open, and with it the lock
        time.sleep(0.1)
    raise RuntimeError(f"there are more workers than the {len(places)} places")


def occupy(place: str, workers: int) -> None:
    """Make a GPU the only one that this process sees, and keep to a worker's share of its memory.

    With a share of its own a cell runs out of memory at the same batch size whatever its neighbours do.

    Args:
        place: As ``places`` names it.
        workers: How many share the GPU.
    """
    os.environ[VISIBLE] = place
    if workers > 1:
        import torch

        total = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(1 / workers - OVERHEAD_BYTES / total, 0)


def usable() -> bool:
    """Say whether this process can still use its GPU; after an illegal access or a failed assertion it never can."""
    import torch

    if not torch.cuda.is_initialized():
        return True
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True
