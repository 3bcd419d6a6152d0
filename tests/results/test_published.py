"""Published numbers: read, filtered, cited, never mixed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from results.published import TABLES, published, references, search

ROOT = Path(__file__).parents[2]


def test_every_number_has_a_source_a_place_and_a_value_or_a_speed() -> None:
    assert len(published()) > 600
    for row in published():
        assert row.source in references()
        assert row.place
        if row.value:
            assert -100 <= float(row.value) <= 100
            assert row.task
            assert row.score
        else:
            assert row.speedup or row.conditions


def test_dev_and_test_lie_in_files_of_their_own() -> None:
    splits = {table: {row.split.split(" ")[0] for row in rows(table)} for table in TABLES}
    assert splits == {
        "glue_dev": {"dev"},
        "glue_test": {"test"},
        "squad_dev": {"dev"},
        "survey": {"survey"},
        "speed": {""},
    }


def rows(table: str) -> list[object]:
    from results.published import _rows

    return list(_rows(table))


def test_the_papers_own_row_is_what_the_paper_prints() -> None:
    found = search(source="moebert2022", task="mnli", method="MoEBERT (4 experts", split="dev")
    assert [(row.score, row.value) for row in found if "Table 1" in row.place] == [("accuracy", "84.5")]


def test_a_filter_takes_any_case_and_part_of_a_name_but_the_whole_split() -> None:
    assert {row.source for row in search(method="TINYBERT", split="test")} == {"tinybert2020"}
    assert search(split="tes") == []
    assert {row.split for row in search(task="mnli", split="dev")} == {"dev"}


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(ValueError, match=r"no field 'metod'; known: source, method"):
        search(metod="x")


def test_contradicted_numbers_keep_their_warning_apart_from_the_place() -> None:
    warned = [row for row in published() if row.warning]
    assert len(warned) == 7
    assert all("WARNING" not in row.place for row in published())


def test_a_citation_is_short() -> None:
    assert references()["moebert2022"].cite() == "Zuo et al., NAACL 2022"
    assert references()["ultrafastbert2023"].cite() == "Belcak and Wattenhofer, arXiv 2023"
    assert references()["ted2023"].cite() == "Liang et al., ICML 2023"
    assert references()["nn_pruning2021"].author.startswith("Lagunas, Francois")


def test_every_key_that_methods_and_tasks_cite_is_there() -> None:
    sources = [*(ROOT / "methods").glob("*.py"), *(ROOT / "bench" / "tasks").glob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    cited = set(re.findall(r'(?:^    paper|\bcitation) ?= ?"(\w+)"', text, re.MULTILINE))
    assert len(cited) > 10
    assert cited <= set(references())


def test_reading_needs_nothing_heavy() -> None:
    code = "import sys; from results.published import search; search(task='rte'); print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT
    ).stdout
    assert not {"pandas", "torch", "numpy", "pydantic"} & set(loaded.split())
