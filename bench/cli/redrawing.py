"""Documents whose numbers are drawn from records: a command in a comment, and below it what it prints."""

from __future__ import annotations

import io
import re
import shlex
from contextlib import chdir, redirect_stdout
from pathlib import Path

from bench.cli.shell import app
from bench.errors import UserError
from results.errors import FrameError, RunFolderError

READING = ("compare", "contrast", "table")  # what a document may have drawn: commands that only read
_BLOCK = re.compile(r"(<!-- moebench (?P<command>[^\n]+?) -->\n).*?(<!-- end -->)", re.DOTALL)


def redrawn(text: str, folder: Path) -> str:
    """Return a document with everything between ``<!-- moebench … -->`` and ``<!-- end -->`` drawn anew.

    Args:
        text: The document.
        folder: Where its commands run.

    Raises:
        UserError: Where a command does more than reading, or fails.
    """
    with chdir(folder):
        return _BLOCK.sub(
            lambda block: f"{block[1]}\n{_output(block['command']).strip()}\n\n{block[3]}", text
        )


def _output(command: str) -> str:
    """Run a command in this process, where all commands of a document share what was read of a run."""
    words = shlex.split(command)
    if words[0] not in READING:
        raise UserError(f"moebench {command}: a document can only have drawn: {', '.join(READING)}")
    printed = io.StringIO()
    try:
        with redirect_stdout(printed):
            app(words, standalone_mode=False)
    except (UserError, RunFolderError, FrameError, OSError) as error:
        raise UserError(f"moebench {command}: {error}") from error
    return printed.getvalue()
