"""Two runs side by side: differences, what is new, and what cannot be compared."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import QUALITY, campaign, cell, latency, save_predictions

from reports import changes, terminal
from reports.entries import DASH, Entry
from results.frame import Frame, from_records
from results.record import CellRecord
from results.store import RunFolder


def run(
    folder: Path, labels: tuple[str, ...] = tuple(QUALITY), *, rename: dict[str, str] | None = None
) -> Frame:
    """Make a run; with ``rename``, one method's predictions are those of another."""
    records = campaign(labels)
    for record in records:
        if isinstance(record, CellRecord):
            of = record.model_copy(update={"label": (rename or {}).get(record.label, record.label)})
            save_predictions(RunFolder(folder), of)
    return from_records(records, folder=RunFolder(folder))


def rows(before: Frame, after: Frame) -> dict[str, dict[str, Entry]]:
    table = changes(before, after, names=("old", "new"))
    return {row[0].text: dict(zip(table.headings, row, strict=True)) for row in table.rows}


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    frame = run(tmp_path)
    for found in rows(frame, frame).values():
        assert found["difference"].value == 0
        assert found["p"].value == 1.0


def test_a_method_that_changed_is_told_from_noise(tmp_path: Path) -> None:
    before, after = run(tmp_path / "a"), run(tmp_path / "b", rename={"moebert": "finetune"})
    found = rows(before, after)
    assert found["moebert"]["difference"].text.startswith("−")
    assert found["moebert"]["difference"].high is not None
    assert found["distilbert"]["p"].value == 1.0
    assert (found["moebert"]["p"].value or 1.0) < 1.0


def test_a_method_of_one_run_alone_is_shown_with_dashes(tmp_path: Path) -> None:
    found = rows(run(tmp_path / "a", ("teacher", "finetune")), run(tmp_path / "b", ("teacher", "moebert")))
    assert found["finetune"]["score, new"].note == "not in this run"
    assert found["moebert"]["difference"].text == DASH


def test_without_predictions_the_difference_is_shown_untested(frame: Frame) -> None:
    found = rows(frame, frame)["finetune"]
    assert found["difference"].text == "+0.0"
    assert found["difference"].note.startswith("not tested")
    assert found["p"].text == DASH


def test_speed_ups_stand_apart_for_each_run() -> None:
    one = cell("finetune")
    before = from_records([cell("teacher"), one, latency(one, speed=1.5)])
    after = from_records([cell("teacher"), one, latency(one, speed=3.0)])
    found = rows(before, after)["finetune"]
    assert found["speed-up, old"].value == pytest.approx(1.5, rel=0.02)
    assert found["speed-up, new"].value == pytest.approx(3.0, rel=0.02)


def test_runs_without_a_common_task_cannot_be_compared() -> None:
    with pytest.raises(ValueError, match=r"old has the tasks a, new has b"):
        changes(from_records([cell(task="a")]), from_records([cell(task="b")]), names=("old", "new"))


def test_a_limited_run_is_another_task() -> None:
    with pytest.raises(ValueError, match=r"nothing to compare.*reviews \[limit=64\]"):
        changes(from_records([cell()]), from_records([cell(limit=64)]))


def test_a_terminal_shows_texts_notes_and_caption(frame: Frame) -> None:
    lines = terminal(changes(frame, frame)).splitlines()
    assert lines[0].split()[0] == "method"
    assert "reviews, validation: accuracy" in lines
    assert any(line.startswith("finetune") and "(a)" in line for line in lines)
    assert any(line.startswith("(a) not tested") for line in lines)
    assert "A difference is the second run minus the first" in lines[-1]
