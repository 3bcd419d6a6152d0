"""Numbers that papers and repositories printed, each read at the place that it names.

They are facts about other people's runs: other data orders, teachers, hardware and splits. Tables show them in columns
of their own and never mix them with measurements. Scores are x 100, as printed.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from importlib.resources import files

# GLUE's dev and test values lie in files of their own: they must never share a column.
TABLES = ("glue_dev", "glue_test", "squad_dev", "survey", "speed")


@dataclass(frozen=True)
class Published:
    """One printed number.

    Attributes:
        source: Key into ``references.bib``.
        method: As printed, with the size where one paper has several.
        teacher: Empty where the source names none.
        parameters_millions: As printed: a number, or a share of a named model.
        task: Name of the task here; empty for a speed-up without a score.
        score: Name of the score here; ``as printed`` where the source does not say which.
        split: ``dev``, ``test`` (``mismatched`` for that of MNLI), or ``survey`` for what a survey collected.
        value: Score x 100; empty for a speed-up without a score.
        speedup: As printed: a number, or a range with its devices.
        conditions: What the speed-up was measured on; printed wherever the speed-up is.
        place: Where in the source.
        warning: Another source contradicts it, and how.
    """

    source: str
    method: str
    teacher: str
    parameters_millions: str
    task: str
    score: str
    split: str
    value: str
    speedup: str
    conditions: str
    place: str
    warning: str


@dataclass(frozen=True)
class Reference:
    """One entry of ``references.bib``."""

    key: str
    title: str
    author: str
    year: str
    venue: str
    url: str

    def cite(self) -> str:
        """Return a short citation, ``Zuo et al., NAACL 2022``."""
        names = [name.split(",")[0].strip() for name in self.author.split(" and ")]
        who = names[0] if len(names) == 1 else f"{names[0]} et al." if len(names) > 2 else " and ".join(names)
        return f"{who.replace('and others', 'et al.')}, {f'{self.venue} {self.year}'.strip()}"


def search(**wanted: str) -> list[Published]:
    """Return the numbers whose fields contain the given texts, whatever the case.

    ``search(task="mnli", method="tinybert")``; ``split`` must match as a whole, so that test is never taken for dev.

    Raises:
        ValueError: For a field that does not exist.
    """
    known = [field.name for field in fields(Published)]
    for name in wanted:
        if name not in known:
            raise ValueError(f"published numbers have no field {name!r}; known: {', '.join(known)}")
    return [row for row in published() if all(_matches(row, name, text) for name, text in wanted.items())]


@cache
def published() -> tuple[Published, ...]:
    """Read all numbers."""
    return tuple(row for table in TABLES for row in _rows(table))


@cache
def references() -> dict[str, Reference]:
    """Read the bibliography by key."""
    text = (files(__package__) / "references.bib").read_text(encoding="utf-8")
    entries = re.findall(r"^@\w+\{([^,]+),\n(.*?)^\}", text, re.MULTILINE | re.DOTALL)
    return {key: _reference(key, body) for key, body in entries}


def _matches(row: Published, name: str, text: str) -> bool:
    value: str = getattr(row, name)
    return value == text if name == "split" else text.casefold() in value.casefold()


def _rows(table: str) -> Iterator[Published]:
    text = (files(__package__) / f"{table}.csv").read_text(encoding="utf-8")
    yield from (Published(**row) for row in csv.DictReader(io.StringIO(text)))


def _reference(key: str, body: str) -> Reference:
    found = dict(re.findall(r"^  (\w+) = \{(.*)\},$", body, re.MULTILINE))
    eprint = found.get("eprint")
    return Reference(
        key=key,
        title=found["title"],
        author=re.sub(r"\{\\.\{?(\w)\}?\}", r"\1", found["author"]),
        year=found["year"],
        venue=found.get("booktitle") or found.get("journal") or ("arXiv" if eprint else ""),
        url=found.get("url") or (f"https://arxiv.org/abs/{eprint}" if eprint else ""),
    )
