"""Documents whose numbers are drawn from records: a command in a comment, and below it what it prints."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.errors import UserError

READING = ("compare", "contrast", "ls", "table")  # what a document may have drawn: commands that only read
_BLOCK = re.compile(r"(<!-- moebench (?P<command>[^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def redrawn(text: str, folder: Path) -> str:
    """Return a document with everything between ``<!-- moebench … -->`` and ``<!-- end -->`` drawn anew.

    Args:
        text: The document.
        folder: Where its commands run.

    Raises:
        UserError: Where a command does more than reading, or fails.
    """
    commands = [block["command"] for block in _BLOCK.finditer(text)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each waits for a process of its own
        outputs = pool.map(lambda command: _output(command, folder), commands)
        return _BLOCK.sub(lambda block: f"{block[1]}\n{next(outputs).strip()}\n\n{block[3]}", text)


def _output(command: str, folder: Path) -> str:
    words = shlex.split(command)
    if words[0] not in READING:
        raise UserError(f"moebench {command}: a document can only have drawn: {', '.join(READING)}")
    run = subprocess.run(
        [sys.executable, "-m", "bench.cli", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    if run.returncode:
        raise UserError(f"moebench {command}: {run.stderr.strip() or 'failed'}")
    return run.stdout
