"""A compact run folder says the same as the one it was made from, in less space."""

from __future__ import annotations

import gzip
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reports.comparisons import compare
from results.compaction import _shifted, merge_compactly
from results.frame import load
from results.predictions import read_predictions
from results.record import CellRecord, LatencyRecord
from results.store import RunFolder, merge

CAMPAIGN = Path(__file__).parents[2] / "results" / "campaigns" / "quickstart"


@pytest.fixture(scope="module")
def compact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("compact") / "run"
    assert merge_compactly([CAMPAIGN], out) == len(RunFolder(CAMPAIGN).records())
    return out


def size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def test_it_is_a_third_as_large_and_holds_the_same_records_to_what_is_rounded(compact):
    assert size(compact) < size(CAMPAIGN) / 3
    before, after = RunFolder(CAMPAIGN), RunFolder(compact)
    assert len(before.records()) == len(after.records()) > 20
    for record in before.records():
        packed = after.record(record.id)
        if isinstance(record, LatencyRecord):
            assert packed.model_copy(update={"repeats": []}) == record.model_copy(update={"repeats": []})
            for old, new in zip(record.repeats, packed.repeats, strict=True):
                assert new.candidate_ms == pytest.approx(old.candidate_ms, abs=5.1e-5)
                assert new.baseline_ms == pytest.approx(old.baseline_ms, abs=5.1e-5)
            continue
        assert packed.model_copy(update={"training": None}) == record.model_copy(update={"training": None})
        for old, new in zip(record.training.stages, packed.training.stages, strict=True):
            assert [(p.step, p.examples) for p in new.curve] == [(p.step, p.examples) for p in old.curve]
            assert [p.loss for p in new.curve] == pytest.approx([p.loss for p in old.curve], rel=5e-4)


def test_what_is_read_from_predictions_is_the_same(compact):
    before, after = load(CAMPAIGN), load(compact)
    pd.testing.assert_frame_equal(
        before.cells.drop(columns="predictions_path"), after.cells.drop(columns="predictions_path")
    )
    pd.testing.assert_frame_equal(before.latency, after.latency, rtol=1e-4)
    (task,) = set(before.cells["task"])
    old, new = compare(before, task), compare(after, task)
    assert asdict(new)["with_best"] == asdict(old)["with_best"]
    assert asdict(new)["with_teacher"] == asdict(old)["with_teacher"]
    assert new.label_loyalty == old.label_loyalty
    for measure, error in (
        ("probability_loyalty", 1e-3),
        ("calibration_error", 2e-3),
    ):  # rows move between bins
        for label, estimate in getattr(old, measure).items():
            assert getattr(new, measure)[label].mean == pytest.approx(estimate.mean, abs=error)


def test_rows_stand_once_and_the_same_folder_gives_the_same_bytes(compact, tmp_path):
    assert len(list((compact / "predictions" / "rows").iterdir())) == 1
    merge_compactly([CAMPAIGN], tmp_path / "again")
    for file in sorted(compact.rglob("*.*")):
        if file.is_file():
            assert (tmp_path / "again" / file.relative_to(compact)).read_bytes() == file.read_bytes()


def test_compact_folders_are_joined_and_written_to_like_others(compact, tmp_path):
    merge([compact], tmp_path / "plain")
    merge_compactly([compact, tmp_path / "plain"], tmp_path / "joined")
    assert size(tmp_path / "joined") == pytest.approx(size(compact), rel=0.01)
    folder = RunFolder(tmp_path / "joined")
    records = folder.records()
    assert records == RunFolder(compact).records()
    changed = records[0].model_copy(update={"suite_version": "later"})
    folder.write(changed)
    assert folder.record(changed.id) == changed
    assert folder.record_file(changed.id).name == f"{changed.id}.json.gz"
    folder.record_file(changed.id).write_bytes(gzip.compress(b"{")[:-3])
    assert folder.record(changed.id) is None
    assert (tmp_path / "joined" / "corrupt" / f"{changed.id}.json.gz").exists()


def test_answers_keep_their_row_scores_and_lose_their_logits(tmp_path):
    run = RunFolder(tmp_path / "run")
    (record,) = [one for one in RunFolder(CAMPAIGN).records() if one.id == _first_cell()]
    run.write(record)
    table = pa.table(
        {
            "split": pa.array(["validation"] * 3).dictionary_encode(),
            "row_id": ["a", "b", "c"],
            "start_logits": pa.array([[[1.0, 2.0]], [[0.5]], [[3.0]]], pa.list_(pa.list_(pa.float16()))),
            "end_logits": pa.array([[[1.0, 2.0]], [[0.5]], [[3.0]]], pa.list_(pa.list_(pa.float16()))),
            "f1": pa.array([1.0, 0.5, 0.0], pa.float32()),
        }
    )
    run.predictions_file(record.id).parent.mkdir()
    pq.write_table(table, run.predictions_file(record.id))
    merge_compactly([run.path], tmp_path / "compact")
    read = read_predictions(RunFolder(tmp_path / "compact").predictions_file(record.id))["validation"]
    assert read.row_ids.tolist() == ["a", "b", "c"]
    assert read.row_scores["f1"].tolist() == [1.0, 0.5, 0.0]
    assert (read.labels, read.logits) == (None, None)


def _first_cell() -> str:
    return next(one.id for one in RunFolder(CAMPAIGN).records() if isinstance(one, CellRecord))


HALVES = st.floats(-60000, 60000, width=16)


@given(arrays(np.float16, (6, 3), elements=HALVES))
def test_shifted_logits_choose_the_same_class_and_keep_every_tie_with_it(logits):
    shifted = (
        _shifted(pa.FixedSizeListArray.from_arrays(logits.ravel(), 3)).flatten().to_numpy().reshape(-1, 3)
    )
    np.testing.assert_array_equal(shifted.argmax(axis=1), logits.argmax(axis=1))
    np.testing.assert_array_equal(shifted == 0, logits == logits.max(axis=1, keepdims=True))
    exact = np.maximum(logits.astype(float) - logits.max(axis=1, keepdims=True).astype(float), -65504)
    np.testing.assert_allclose(shifted.astype(float), exact, rtol=2**-7, atol=2**-24)
    before, after = (
        np.exp(values) / np.exp(values).sum(axis=1, keepdims=True)
        for values in (exact, shifted.astype(float))
    )
    np.testing.assert_allclose(after, before, atol=2e-3)


@given(arrays(np.float16, (6, 1), elements=HALVES))
def test_the_answers_of_a_regression_stay(logits):
    array = pa.FixedSizeListArray.from_arrays(logits.ravel(), 1)
    assert _shifted(array).flatten().to_numpy().tolist() == logits.ravel().tolist()
