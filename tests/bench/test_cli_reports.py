"""The commands around reports, on the committed quickstart."""

from __future__ import annotations

import json
import re
import shutil
import webbrowser
from pathlib import Path

import pytest

from results.record import CellRecord
from results.store import RunFolder

QUICKSTART = Path(__file__).parent.parent.parent / "results" / "campaigns" / "quickstart"


def test_open_shows_the_page_that_was_written(moebench, monkeypatch, tmp_path):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: opened.append(url) or True)
    code, _, stderr = moebench("report", QUICKSTART, "--out", tmp_path / "report", "--open")
    assert code == 0, stderr
    assert opened == [(tmp_path / "report" / "report.html").as_uri()]
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    code, _, stderr = moebench("report", QUICKSTART, "--out", tmp_path / "report", "--open")
    assert code == 2
    assert "no browser could be started; open" in " ".join(stderr.split())


def test_a_run_compared_with_itself_shows_no_difference(moebench):
    code, stdout, stderr = moebench("compare", QUICKSTART, QUICKSTART)
    assert code == 0, stderr
    row = next(line for line in stdout.splitlines() if line.startswith("tinybert"))
    assert "+0.0 [+0.0, +0.0]" in row
    assert "A difference is the second run minus the first" in stdout


def test_an_exported_cell_has_a_card(moebench, monkeypatch, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(QUICKSTART, run)
    cell = next(one for one in RunFolder(run).records() if isinstance(one, CellRecord))
    model = RunFolder(run).model_folder(cell.id)
    model.mkdir(parents=True)
    (model / "config.json").write_text(json.dumps({"model_type": "bert"}))
    code, stdout, stderr = moebench("export", run, cell.id[:8], "--out", tmp_path / "card")
    assert code == 0, stderr
    assert stdout.split()[:2] == ["wrote", str(tmp_path / "card" / "README.md")]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["compare", "{run}", "{tmp}/nowhere"], r"nowhere: no records"),
        (["export", "{run}", "zzz", "--out", "{tmp}/card"], r"no cell named 'zzz'"),
        (["export", "{run}", "{cell}", "--out", "{tmp}/card"], r"was not kept; run it again"),
        (["report", "{run}", "--out", "{tmp}"], r"exists and is not a report"),
    ],
)
def test_bad_input_is_one_clear_line_and_nothing_is_written(moebench, tmp_path, words, message):
    (tmp_path / "mine").write_text("x")
    cell = next(one for one in RunFolder(QUICKSTART).records() if isinstance(one, CellRecord))
    words = [word.format(run=QUICKSTART, tmp=tmp_path, cell=cell.id) for word in words]
    code, stdout, stderr = moebench(*words)
    assert code == 2, stdout + stderr
    text = " ".join(stderr.split())
    assert text.startswith("error: ")
    assert text.count("error") == 1
    assert re.search(message, text), text
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
