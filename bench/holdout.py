"""Rows held out from the training rows: what a tuning try is scored on in place of the validation split."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from bench.errors import UserError
from bench.sources import Rows
from results.record import digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.tasks.task import Task
    from results.record import HeldOut

HELD_OUT = "held_out"  # role of the rows


def hold_out(task: Task, rows: Rows, held_out: HeldOut) -> Rows:
    """Divide the training rows into those to train on and those to score on, roles ``train`` and ``held_out``.

    Rows that share their last text (the context of a question, the one sentence, the second of two) stay together, so
    that a repeated row is never on both sides.

    Raises:
        UserError: Where nothing would be left to train on.
    """
    train = rows.splits["train"]
    wanted = min(max(1, round(held_out.share * len(train))), held_out.most)
    taken = set(choose(train[task.text[-1]], wanted, held_out.seed))
    kept = [row for row in range(len(train)) if row not in taken]
    if not kept:
        raise UserError(
            f"task {task.name!r}: tuning cannot hold out rows, since all {len(train)} training rows share one text"
        )
    splits = {"train": train.select(kept), HELD_OUT: train.select(sorted(taken))}
    return Rows(splits, digest([rows.fingerprint, held_out.model_dump()]), rows.origin)


def choose(texts: Sequence[str], wanted: int, seed: int) -> list[int]:
    """Choose at least ``wanted`` rows, all rows of one text together, the texts in the order of their hashes."""
    rows: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        rows.setdefault(text, []).append(row)
    chosen: list[int] = []
    for text in sorted(rows, key=lambda text: hashlib.sha256(f"{seed}\0{text}".encode()).digest()):
        if len(chosen) >= wanted:
            break
        chosen += rows[text]
    return chosen
