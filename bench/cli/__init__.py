"""The command ``moebench``; heavy imports live inside the commands, so that it answers at once."""

from __future__ import annotations

import logging
import sys

from rich.logging import RichHandler

from bench.cli import documents, execution, inspection, records, scaffolding  # noqa: F401 - each registers its commands
from bench.cli.shell import app, error_console
from bench.errors import UserError
from results.errors import FrameError, RunFolderError

__all__ = ["app", "main"]

INTERRUPTED = 130  # the exit code of a command stopped by Ctrl-C


def main() -> None:
    """Run the command line; errors meant for people are one line and exit code 2."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s", handlers=[_log_handler()])
    if len(sys.argv) == 1:
        sys.argv.append("--help")
    code = 0
    try:
        code = app(standalone_mode=False) or 0
    except (UserError, RunFolderError, FrameError) as error:
        _fail(str(error))
    except OSError as error:
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        message = getattr(
            error, "format_message", None
        )  # the parser's own errors, whichever typer raises them
        if message is None:
            raise
        _fail(" ".join(message().split()))
    if code == INTERRUPTED:
        error_console.print("interrupted; the same command goes on where it stopped")
    sys.exit(code)


def _log_handler() -> logging.Handler:
    return RichHandler(console=error_console, show_time=False, show_path=False, show_level=True)


def _fail(message: str) -> None:
    error_console.print(f"error: {message}", style="red", highlight=False, markup=False)
    sys.exit(2)
