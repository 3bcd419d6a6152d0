"""The one exception whose message is meant for the person at the terminal."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Say what is wrong, where, what was possible and what to do; the command line prints it and exits with 2."""


def unknown(kind: str, name: str, known: Iterable[str], *, where: str = "") -> UserError:
    """Build the error for a name that is not known, with the nearest known one."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ";"
    place = f"{where}: " if where else ""
    return UserError(f"{place}unknown {kind} {name!r}{hint} known: {', '.join(names) or 'none'}")
