"""The tasks of GLUE and SQuAD as data, held against the metrics, against docs/tasks.md and against the real rows."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from pathlib import Path

import pytest

from bench.hub import COMMIT
from bench.sources import load_rows
from bench.tasks import catalog, glue, squad
from bench.tasks.task import Task

OFFICIAL_ROWS = glue.OFFICIAL_ROWS | squad.OFFICIAL_ROWS
NAMES = sorted(OFFICIAL_ROWS)
REAL = os.environ.get("MOEBENCH_DATA")
real_data = pytest.mark.skipif(not REAL, reason="MOEBENCH_DATA names no folder with GLUE and SQuAD")
DOCS = (Path(__file__).parents[3] / "docs/tasks.md").read_text(encoding="utf-8")


def documented() -> dict[str, list[str]]:
    """The rows of the table in docs/tasks.md, by task."""
    lines = [line for line in DOCS.splitlines() if re.match(r"\| `[a-z0-9.-]+` \|", line)]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0].strip("`"): row[1:] for row in rows}


@pytest.mark.parametrize("name", NAMES)
def test_sources_are_pinned_and_sizes_are_known_for_every_split(name: str) -> None:
    task = catalog.find(name)
    assert COMMIT.fullmatch(task.source.revision or "")
    assert set(OFFICIAL_ROWS[name]) == set(task.splits)


@pytest.mark.parametrize("name", ["rotten-tomatoes", *NAMES])
def test_the_documentation_says_what_the_task_says(name: str) -> None:
    measures, train, validation, licence, _ = documented()[name]
    task = catalog.find(name)
    main, *others = [re.sub(r"\W*(\w+)\W*", r"\1", score) for score in measures.split(",")]
    assert main == task.main_score
    assert others == [score for score in task.scores if score != main]
    assert licence == task.licence
    if name in OFFICIAL_ROWS:
        official = OFFICIAL_ROWS[name]
        assert train == f"{official['train']:,}"
        evaluated = [f"{official[role]:,}" for role in task.evaluation_splits]
        assert validation.split(" + ") == evaluated


def test_every_task_is_documented_and_no_other() -> None:
    assert set(documented()) == {"rotten-tomatoes", *NAMES}


def plain(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", " ", text.lower()).strip()


def rows_of(name: str) -> tuple[Task, dict[str, list[tuple[tuple[str, ...], float]]]]:
    task = catalog.find(name)
    splits = load_rows(task, data=Path(str(REAL))).splits
    texts = {
        role: zip(*(map(plain, split[column]) for column in task.text), strict=True)
        for role, split in splits.items()
    }
    return task, {role: list(zip(texts[role], splits[role]["label"], strict=True)) for role in splits}


@real_data
@pytest.mark.parametrize(
    ("name", "shared", "other_label"),
    [("cola", 18, 2), ("sst2", 2, 0), ("mrpc", 0, 0), ("stsb", 6, 1), ("rte", 0, 0)],
)
def test_noted_rows_that_are_in_both_splits(name: str, shared: int, other_label: int) -> None:
    task, rows = rows_of(name)
    labels = defaultdict(set)
    for text, label in rows["train"]:
        labels[text].add(label)
    both = [(text, label) for text, label in rows["validation"] if text in labels]
    assert len(both) == shared
    assert sum(label not in labels[text] for text, label in both) == other_label
    if shared > 2:
        assert task.notes.startswith(f"{shared} validation ")


@real_data
def test_noted_quirk_of_wnli() -> None:
    task, rows = rows_of("wnli")
    known = {text[0] for text, _ in rows["train"]}
    shared = sum(text[0] in known for text, _ in rows["validation"])
    assert f"{shared} of its {len(rows['validation'])} first sentences are in train" in task.notes


@real_data
def test_noted_balance_of_mrpc() -> None:
    task, rows = rows_of("mrpc")
    labels = [label for _, label in rows["validation"]]
    assert task.notes.startswith(f"{sum(labels) / len(labels):.0%}".replace("%", " %"))
