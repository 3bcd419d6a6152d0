"""Tie groups, tests against the teacher, loyalty and calibration, from files of predictions."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from synthetic import QUALITY, campaign, cell, save_predictions

from reports.comparisons import compare
from reports.tables import main_table
from results.frame import Frame, from_records
from results.predictions import read_predictions
from results.record import CellRecord
from results.store import RunFolder


def frame_with_predictions(folder: Path, records: list[CellRecord], **options: object) -> Frame:
    run = RunFolder(folder)
    for record in records:
        save_predictions(run, record, **options)  # type: ignore[arg-type]
    return from_records(records, folder=run)


def cells(labels: tuple[str, ...] = tuple(QUALITY), **options: object) -> list[CellRecord]:
    return [one for one in campaign(labels, **options) if isinstance(one, CellRecord)]  # type: ignore[arg-type]


def test_the_best_student_and_those_not_told_apart_are_marked(tmp_path: Path) -> None:
    frame = frame_with_predictions(
        tmp_path, [*cells(), *(cell("poor", seed=s, value=0.6) for s in (1, 2, 3))]
    )
    found = compare(frame, "reviews")
    assert found.best == "moebert"
    assert "moebert" in found.tied
    assert "poor" not in found.tied
    table = main_table(frame)
    marked = {row[0].text for row in table.rows if row[1].marked}
    assert marked == found.tied
    assert "teacher" not in marked


def test_without_predictions_nothing_is_marked(frame: Frame) -> None:
    assert compare(frame, "reviews").tied == frozenset()
    assert "no predictions" in compare(frame, "reviews").with_best["finetune"].reason
    assert not any(entry.marked for row in main_table(frame).rows for entry in row)


def test_p_values_are_corrected_over_the_methods(tmp_path: Path) -> None:
    found = compare(frame_with_predictions(tmp_path, cells()), "reviews").with_teacher
    raw = sorted(one.difference.p_value for one in found.values() if one.difference)
    adjusted = sorted(one.adjusted for one in found.values() if one.adjusted is not None)
    assert len(raw) == 4
    assert adjusted[0] == pytest.approx(min(1.0, 4 * raw[0]))


def test_only_seeds_that_both_finished_are_compared(tmp_path: Path) -> None:
    records = [
        one
        for one in cells(("teacher", "finetune", "moebert"))
        if (one.label, one.identity.seed) != ("finetune", 2)
    ]
    found = compare(frame_with_predictions(tmp_path, records), "reviews")
    assert found.with_best["finetune"].difference is not None
    assert found.with_best["finetune"].difference.seeds == 2


def test_predictions_of_other_rows_are_not_compared(tmp_path: Path) -> None:
    records = cells(("finetune", "moebert"), seeds=(1,))
    frame = frame_with_predictions(tmp_path, records)
    save_predictions(RunFolder(tmp_path), records[0], rows=300)
    assert compare(frame, "reviews").with_best["finetune"].reason == "their predictions are of different rows"


def test_a_score_that_the_rows_do_not_hold_is_not_tested(tmp_path: Path) -> None:
    records = [cell(label, main_score="unheard_of") for label in ("finetune", "moebert")]
    assert (
        "hold no unheard_of"
        in compare(frame_with_predictions(tmp_path, records), "reviews").with_best["finetune"].reason
    )


@pytest.mark.parametrize(
    ("head", "score"),
    [
        ("classification", "matthews"),
        ("classification", "f1"),
        ("regression", "spearman"),
        ("extractive-qa", "f1"),
    ],
)
def test_other_scores_are_tested_too(tmp_path: Path, head: str, score: str) -> None:
    records = [
        cell(label, seed=seed, main_score=score) for label in ("finetune", "moebert") for seed in (1, 2, 3)
    ]
    found = compare(frame_with_predictions(tmp_path, records, head=head), "reviews").with_best["finetune"]
    assert found.difference is not None
    assert found.difference.mean < 0
    assert found.difference.low < found.difference.mean < found.difference.high
    assert 0 < found.difference.p_value < 1


def test_loyalty_and_calibration_are_means_over_seeds(tmp_path: Path) -> None:
    found = compare(frame_with_predictions(tmp_path, cells()), "reviews")
    assert found.label_loyalty["moebert"].n == 3
    assert 0.5 < found.label_loyalty["moebert"].mean < 1
    assert 0 < found.probability_loyalty["moebert"].mean < 1
    assert set(found.calibration_error) == set(QUALITY)
    assert "teacher" not in found.label_loyalty


def test_regression_has_no_loyalty_of_labels(tmp_path: Path) -> None:
    records = [cell(label, main_score="pearson") for label in ("teacher", "finetune")]
    found = compare(frame_with_predictions(tmp_path, records, head="regression"), "reviews")
    assert found.label_loyalty == {}
    assert found.calibration_error == {}


def test_predictions_read_back(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    save_predictions(run, cell(), rows=10)
    found = read_predictions(run.predictions_file(cell().id))["validation"]
    assert found.logits is not None
    assert found.logits.shape == (10, 2)
    assert found.labels is not None
    assert found.row_ids.tolist() == [str(number) for number in range(10)]
    assert np.isfinite(found.logits).all()


@pytest.mark.parametrize("content", [b"", b"not parquet"])
def test_a_broken_file_of_predictions_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "p.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"p\.parquet: not readable as Parquet"):
        read_predictions(tmp_path / "p.parquet")
