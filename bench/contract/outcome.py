"""What checks say."""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bench.errors import UserError


@dataclass(frozen=True)
class CheckResult:
    """Outcome of one check.

    Attributes:
        name: Of the check.
        passed: Whether the method keeps this part of the contract.
        detail: What was found wrong; of a passed check, what was left out.
        seconds: That it took.
    """

    name: str
    passed: bool
    detail: str
    seconds: float


class BrokenError(Exception):
    """A part of the contract that the method does not keep."""


def describe(error: Exception) -> str:
    """Say an error in one line, with the place for those that are not ours."""
    if isinstance(error, ValidationError):
        return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors())
    first = next(iter(str(error).strip().splitlines()), "")
    if isinstance(error, BrokenError | UserError):
        return first
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {first} ({Path(frame.filename).name}:{frame.lineno})"
