"""Seeds derived from named axes, so that what must be shared between methods is, and nothing else."""

from __future__ import annotations

import hashlib


def derive(seed: int, *axes: str) -> int:
    """Return a 63-bit seed for a purpose, the same on every platform.

    ``derive(0, "order", "sst2")`` does not name the method: every method at seed 0 sees the same order.
    """
    text = "\0".join([str(seed), *axes])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
