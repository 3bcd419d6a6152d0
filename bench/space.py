"""Whether a disk has room for what a run is about to keep."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.errors import UserError


def require_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Refuse a folder whose disk cannot hold what is about to be written; nothing is written by asking.

    Args:
        folder: Where it would be written; it need not exist yet.
        needed_bytes: At least this much.
        what: What needs it, for the message.

    Raises:
        UserError: With what is free, what is needed, and what to do.
    """
    there = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    free = shutil.disk_usage(there).free
    if free < needed_bytes:
        raise UserError(
            f"{folder}: {free / 1e6:,.0f} MB free, {what} need at least {needed_bytes / 1e6:,.0f} MB; "
            "free some, or name a folder on another disk with --out"
        )
