"""Two methods of one run on every task, and a table of the report by its name."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import cell, save_predictions

from reports.contrasts import contrast
from reports.entries import Entry
from reports.paired import compare_means
from reports.tables import find_table
from results.frame import Frame, from_records
from results.predictions import read_predictions
from results.record import CellRecord
from results.store import RunFolder

SEEDS = (1, 2, 3)


def made(folder: Path, labels=("teacher", "moebert", "finetune"), tasks=("cola", "rte", "sst2")) -> Frame:
    records = [cell(label, task, seed) for task in tasks for label in labels for seed in SEEDS]
    for record in records:
        save_predictions(RunFolder(folder), record)
    return from_records(records, folder=RunFolder(folder))


def rows(frame: Frame, method: str = "moebert", reference: str = "finetune") -> dict[str, dict[str, Entry]]:
    table = contrast(frame, method, reference)
    return {row[0].text: dict(zip(table.headings, row, strict=True)) for row in table.rows}


def test_each_task_is_tested_from_predictions_and_corrected_over_the_table(tmp_path):
    frame = made(tmp_path)
    found = rows(frame)
    assert list(found) == ["cola, validation", "rte, validation", "sst2, validation", "over 3 tasks"]
    folder = RunFolder(tmp_path)

    def right(label: str, task: str) -> list:
        ids = [cell(label, task, seed).id for seed in SEEDS]
        said = [read_predictions(folder.predictions_file(one))["validation"] for one in ids]
        return [(one.logits.argmax(axis=1) == one.labels).astype(float) for one in said]

    import numpy as np

    raw = {
        task: compare_means(np.stack(right("moebert", task)), np.stack(right("finetune", task)))
        for task in ("cola", "rte", "sst2")
    }
    smallest = min(raw, key=lambda task: raw[task].p_value)
    shown = found[f"{smallest}, validation"]
    assert shown["difference"].value == pytest.approx(100 * raw[smallest].mean)
    assert (shown["difference"].low, shown["difference"].high) == pytest.approx(
        (100 * raw[smallest].low, 100 * raw[smallest].high)
    )
    assert shown["p"].value == pytest.approx(min(1, 3 * raw[smallest].p_value))
    over = found["over 3 tasks"]
    assert over["difference"].value == pytest.approx(100 * np.mean([one.mean for one in raw.values()]))
    higher = sum(one.mean > 0 for one in raw.values())
    assert over["moebert"].text.startswith(f"higher on {higher}, told apart on ")
    assert over["finetune"].text.startswith(f"higher on {3 - higher}, ")


def test_the_other_way_round_is_the_same_with_the_sign_turned(tmp_path):
    frame = made(tmp_path)
    one, other = rows(frame), rows(frame, "finetune", "moebert")
    for name in one:
        assert one[name]["difference"].value == pytest.approx(-other[name]["difference"].value)
        assert one[name]["p"].text == other[name]["p"].text


def test_one_task_has_no_row_over_tasks(tmp_path):
    assert list(rows(made(tmp_path, tasks=("rte",)))) == ["rte, validation"]


def test_without_predictions_there_is_a_dash_with_the_reason(frame):
    (found,) = rows(frame).values()
    assert found["difference"].note == "no predictions of a seed that both finished"
    assert found["p"].value is None


@pytest.mark.parametrize(
    ("method", "reference", "message"),
    [
        ("moebrt", "finetune", "no method 'moebrt'; did you mean 'moebert'"),
        ("moebert", "nothing", "no method 'nothing'; there: teacher"),
    ],
)
def test_a_method_that_is_not_there_is_refused(tmp_path, method, reference, message):
    with pytest.raises(ValueError, match=message):
        contrast(made(tmp_path), method, reference)


def test_two_methods_without_a_common_task_are_refused():
    records: list[CellRecord] = [cell("moebert", "rte"), cell("finetune", "cola")]
    with pytest.raises(ValueError, match="finished no task together"):
        contrast(from_records(records), "moebert", "finetune")


def test_a_table_of_the_report_is_found_and_its_rows_by_their_text(tmp_path):
    frame = made(tmp_path)
    whole = find_table(frame, "comparison")
    assert whole.with_text("") == whole
    moebert = whole.with_text("MOEBERT")
    assert [row[0].text for row in moebert.rows] == ["moebert"] * 3
    assert [group.task for group in moebert.groups.values()] == ["cola", "rte", "sst2"]
    assert list(moebert.groups) == [0, 1, 2]
    rte = whole.with_text("rte, validation")
    assert [row[0].text for row in rte.rows] == [
        row[0].text for _, row in zip(range(3), whole.rows, strict=False)
    ]
    with pytest.raises(ValueError, match="no table 'latencies'; there: main, comparison"):
        find_table(frame, "latencies")


def test_columns_of_a_table_are_found_by_their_headings(tmp_path):
    whole = find_table(made(tmp_path), "main")
    assert whole.with_columns([]) == whole
    some = whole.with_columns(["average", "stored encoder"])
    assert some.headings == ("method", "average", "stored encoder parameters (M)")
    places = [whole.headings.index(heading) for heading in some.headings]
    assert some.rows == tuple(tuple(row[place] for place in places) for row in whole.rows)
    assert len(some.column_tasks) == len(whole.column_tasks and some.headings)
    with pytest.raises(ValueError, match="no column with 'latencies'; there: method, "):
        whole.with_columns(["average", "latencies"])
