"""Some cells of a matrix, for one machine of several: ``sst2``, ``sst2:0``, ``squad-v1.1:0-2``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.errors import UserError, unknown
from bench.plans import CellPlan


@dataclass(frozen=True)
class Part:
    """The cells of a task at some seeds; None means all seeds of the matrix."""

    task: str
    seeds: tuple[int, ...] | None = None


def parse_numbers(text: str, option: str) -> list[int]:
    """Read ``0,1,2`` or ``0-4``, each number once.

    Raises:
        UserError: Where the text has another shape.
    """
    try:
        numbers: list[int] = []
        for part in text.split(","):
            first, dash, last = part.partition("-")
            numbers += range(int(first), int(last) + 1) if dash else [int(first)]
    except ValueError:
        raise UserError(f"{option} {text!r}: write numbers, as in 0,1,2 or 0-4") from None
    if not numbers or len(set(numbers)) < len(numbers):
        raise UserError(f"{option} {text!r}: each number once, at least one")
    return numbers


def parse_part(text: str) -> Part:
    """Read ``TASK`` or ``TASK:SEEDS``.

    Raises:
        UserError: Where the seeds are no numbers.
    """
    task, colon, seeds = text.partition(":")
    return Part(task, tuple(parse_numbers(seeds, f"--only {task}:")) if colon else None)


def select(plans: Sequence[CellPlan], only: Sequence[Part]) -> list[CellPlan]:
    """Return the plans of some parts, in the order of the parts and then of the matrix; of no parts: all plans.

    Raises:
        UserError: For a part of which the matrix has nothing.
    """
    chosen: list[CellPlan] = []
    for part in only:
        own = [plan for plan in plans if plan.task.name == part.task]
        if not own:
            raise unknown("task", part.task, dict.fromkeys(plan.task.name for plan in plans), where="--only")
        seeds = sorted({plan.seed for plan in own})
        if part.seeds is not None and (strange := sorted(set(part.seeds) - set(seeds))):
            raise UserError(
                f"--only {part.task}: the matrix has the seeds {', '.join(map(str, seeds))}, not {strange[0]}"
            )
        chosen += [plan for plan in own if part.seeds is None or plan.seed in part.seeds]
    if len(chosen) > len({id(plan) for plan in chosen}):
        raise UserError("--only names some cells twice")
    return chosen or list(plans)
