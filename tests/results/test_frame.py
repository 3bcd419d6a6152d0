"""A frame is laid out from records and refuses what no table could show honestly."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path

import pandas as pd
import pytest
from synthetic import ENVIRONMENT, campaign, cell, identity, latency

from results import columns
from results.frame import Frame, from_records, load
from results.record import WorkloadRecord
from results.store import RunFolder


def small() -> Frame:
    return from_records(campaign(("teacher", "finetune"), seeds=(1, 2)), environments={"e": ENVIRONMENT})


def test_every_table_has_exactly_its_documented_columns() -> None:
    frame = small()
    for field in dataclasses.fields(frame):
        documented = getattr(columns, field.name.upper())
        assert list(getattr(frame, field.name).columns) == list(documented)


def test_a_finished_cell_becomes_a_row_with_its_score_cost_and_curve() -> None:
    frame = small()
    row = frame.cells[frame.cells["label"] == "finetune"].iloc[0]
    record = cell("finetune", seed=1)
    assert row["cell_id"] == record.id
    assert row["main_value"] == record.scores["validation"]["accuracy"]
    assert record.cost is not None
    assert row["effective_encoder_parameters"] == record.cost.effective_encoder_parameters
    losses = frame.curves[(frame.curves["cell_id"] == record.id) & (frame.curves["term"] == "loss")]
    assert record.training is not None
    assert losses["value"].tolist() == [point.loss for point in record.training.stages[0].curve]


def test_steps_are_counted_over_all_stages() -> None:
    frame = from_records([cell("distilbert")])
    losses = frame.curves[frame.curves["term"] == "loss"]
    assert losses.groupby("stage", sort=False)["step"].first().tolist() == [10, 110]


def test_a_folder_gives_the_same_frame_and_the_paths_of_predictions(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for record in campaign(("teacher", "finetune"), seeds=(1, 2)):
        run.write(record)
    run.write_environment(ENVIRONMENT)
    known = cell("finetune", seed=1).id
    run.predictions_file(known).parent.mkdir()
    run.predictions_file(known).write_bytes(b"")
    frame = load(tmp_path)
    paths = frame.cells.set_index("cell_id")["predictions_path"]
    assert paths[known] == str(run.predictions_file(known))
    assert (paths.drop(known) == "").all()
    pd.testing.assert_frame_equal(
        frame.cells.drop(columns="predictions_path"), small().cells.drop(columns="predictions_path")
    )
    assert frame.environments["hardware"].tolist() == ["Example CPU, 2 cores"]


def test_a_folder_without_records_is_said(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no records"):
        load(tmp_path)


def test_limited_rows_and_renamed_splits_are_a_task_of_their_own() -> None:
    renamed = {"train": "train-part", "validation": "validation_matched", "test_ax": "ax:test"}
    frame = from_records([cell(), cell(limit=64), cell(splits=renamed), cell(limit=64, splits=renamed)])
    assert frame.cells["task"].tolist() == [
        "reviews",
        "reviews [limit=64]",
        "reviews [train-part, limit=64]",
        "reviews [train-part]",
    ]
    assert set(frame.cells["task_name"]) == {"reviews"}


def test_the_files_that_a_task_file_names_are_its_own_splits() -> None:
    own = identity("finetune", "mine", 1)
    task = own.task | {"splits": {"train": "train.csv", "validation": "dev.csv"}}
    frame = from_records(
        [cell("finetune", task="mine").model_copy(update={"identity": own.model_copy(update={"task": task})})]
    )
    assert frame.cells["task"].tolist() == ["mine"]


def test_a_timing_carries_the_task_of_its_cell() -> None:
    limited = cell(limit=64)
    frame = from_records([limited, latency(limited)])
    assert frame.latency["task"].tolist() == ["reviews [limit=64]"]


@pytest.mark.parametrize("table", ["cells", "scores", "latency", "curves", "environments", "anatomy"])
def test_a_missing_column_is_named(table: str) -> None:
    frame = small()
    first = getattr(frame, table).columns[0]
    with pytest.raises(ValueError, match=rf"frame\.{table}: missing columns \['{first}'\]"):
        dataclasses.replace(frame, **{table: getattr(frame, table).drop(columns=first)})


def test_two_cells_of_one_method_task_and_seed_are_refused_with_what_differs() -> None:
    with pytest.raises(ValueError, match=r"2 cells for 'finetune' on 'reviews', seed 1.*differ in config"):
        from_records([cell(), cell(config={"layers": 4})])


def test_two_teachers_under_one_task_and_seed_are_refused() -> None:
    with pytest.raises(ValueError, match=r"two teachers for task 'reviews', seed 1"):
        from_records([cell(), cell("distilbert", teacher="f" * 64)])


def test_different_seeds_may_have_different_teachers() -> None:
    assert len(from_records([cell(seed=1), cell(seed=2)]).cells) == 2


@pytest.mark.parametrize("value", [math.nan, math.inf, 79.3])
def test_a_score_that_is_not_a_score_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"'finetune' on 'reviews', seed 1.*accuracy"):
        from_records([cell(value=value)])


def test_a_finished_cell_without_its_main_score_is_refused() -> None:
    with pytest.raises(ValueError, match="is done but its accuracy on the validation split is nan"):
        from_records([cell(scores={"validation": {"f1": 0.5}})])


def test_a_second_score_that_is_not_a_number_is_refused() -> None:
    with pytest.raises(ValueError, match="f1 on validation is nan"):
        from_records([cell(scores={"validation": {"accuracy": 0.5, "f1": math.nan}})])


def test_a_failed_cell_needs_no_score_and_keeps_its_reason() -> None:
    frame = from_records([cell(status="failed", reason="MemoryError: 4 GiB")])
    assert frame.cells["reason"].tolist() == ["MemoryError: 4 GiB"]
    assert frame.scores.empty


def test_a_time_that_is_not_positive_is_refused() -> None:
    frame = small()
    with pytest.raises(ValueError, match=r"timing .* \('finetune', workload 'b1xl128'\) .* not positive"):
        dataclasses.replace(frame, latency=frame.latency.assign(p50_ms=0.0))


def test_two_timings_of_one_cell_under_one_setting_are_refused() -> None:
    one = latency(cell())
    with pytest.raises(ValueError, match=r"two timings of cell .* for workload 'b1xl128'"):
        from_records([cell(), one, one.model_copy(update={"id": "another"})])


def test_timings_under_other_workloads_stand_side_by_side() -> None:
    real = WorkloadRecord(name="validation at batch 8", batch_size=8, length=None)
    frame = from_records([cell(), latency(cell()), latency(cell(), workload=real)])
    assert frame.latency["length"].isna().tolist() == [False, True]


def test_an_empty_list_gives_empty_tables_with_their_columns() -> None:
    frame = from_records([])
    assert frame.cells.empty
    assert list(frame.cells.columns) == list(columns.CELLS)
