"""What tests wait for that happens in other processes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

Found = TypeVar("Found")


def wait_until(condition: Callable[[], Found], seconds: float, otherwise: str) -> Found:
    """Return what a condition comes to once it holds.

    Raises:
        AssertionError: With the words ``otherwise``, where it does not hold in time.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{otherwise} after {seconds} s"
        time.sleep(0.05)
    return found
