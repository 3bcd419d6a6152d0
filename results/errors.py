"""What can be wrong with a run folder, said for people; kept apart so that it costs nothing to import."""

from __future__ import annotations


class RunFolderError(Exception):
    """Say what is wrong with a run folder and what to do about it."""


class FrameError(ValueError):
    """Say why records cannot stand in one table."""
