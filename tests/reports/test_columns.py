"""What stands in the cells of the main table, and why where nothing does."""

from __future__ import annotations

import pytest
from synthetic import ENVIRONMENT, OTHER_ENVIRONMENT, campaign, cell, latency

from reports import comparison_table
from reports.columns import MAIN, average_column, score_columns, speedup_column
from reports.entries import DASH, Column, ColumnEntry, Entry, quantity
from reports.outcomes import labels
from reports.tables import main_table
from results.frame import Frame, from_records
from results.record import CellRecord, WorkloadRecord


def entries(frame: Frame, heading: str) -> dict[str, Entry]:
    table = main_table(frame)
    place = table.headings.index(heading)
    return {row[0].text: row[place] for row in table.rows}


def caption(frame: Frame) -> str:
    return " ".join(main_table(frame).caption)


def test_rows_begin_with_the_teacher_then_go_from_best_to_worst(frame: Frame) -> None:
    assert labels(frame) == ("teacher", "moebert", "distilbert", "prune", "finetune")


def test_a_score_is_mean_half_interval_and_n(frame: Frame) -> None:
    scores = [cell("finetune", seed=seed).scores["validation"]["accuracy"] for seed in (1, 2, 3)]
    entry = entries(frame, "reviews accuracy")["finetune"]
    assert entry.value == pytest.approx(100 * sum(scores) / 3)
    assert entry.low is not None
    assert entry.value is not None
    assert entry.text == f"{entry.value:.1f} ± {entry.value - entry.low:.1f} (3)"
    assert entry.cells == tuple(cell("finetune", seed=seed).id for seed in (1, 2, 3))


def test_one_seed_shows_a_dash_for_the_interval() -> None:
    frame = from_records([cell("teacher", value=0.8), cell(value=0.7)])
    assert entries(frame, "reviews accuracy")["finetune"].text == f"70.0 ± {DASH} (1)"


def test_failed_skipped_and_missing_cells_say_why() -> None:
    frame = from_records(
        [
            *campaign(("teacher",), seeds=(1, 2)),
            cell("finetune", seed=1, status="failed", reason="loss is not finite"),
            cell("finetune", seed=2, status="failed", reason="loss is not finite"),
            cell("distilbert", seed=1, value=0.7),
            cell("distilbert", seed=2, status="failed", reason="out of memory"),
            cell("prune", seed=1, status="skipped", reason="regression"),
        ]
    )
    found = entries(frame, "reviews accuracy")
    assert (found["finetune"].text, found["finetune"].note) == (
        "failed",
        "seed 1, 2: failed: loss is not finite",
    )
    assert (found["distilbert"].text, found["distilbert"].note) == (
        f"70.0 ± {DASH} (1)",
        "seed 2: failed: out of memory",
    )
    assert found["prune"].text == "skipped, missing"
    assert found["prune"].note == "seed 1: skipped: regression; seed 2: missing: no record of this seed"
    assert found["prune"].value is None


def test_a_method_without_any_record_on_a_task_is_missing_there() -> None:
    frame = from_records([cell(), cell("distilbert"), cell(task="other")])
    assert entries(frame, "other accuracy")["distilbert"].text == "missing"


def test_every_evaluation_split_has_its_own_column() -> None:
    scores = {"validation": {"accuracy": 0.84}, "validation_mismatched": {"accuracy": 0.83}}
    frame = from_records([cell(task="mnli", scores=scores)])
    assert [column.heading for column in score_columns(frame)] == [
        "mnli accuracy",
        "mnli accuracy (mismatched)",
    ]
    assert entries(frame, "mnli accuracy (mismatched)")["finetune"].value == pytest.approx(83.0)


def test_the_average_stands_only_where_every_task_is_there() -> None:
    frame = from_records([cell(task="a", value=0.6), cell(task="b", value=0.8), cell("distilbert", task="a")])
    found = entries(frame, "average")
    assert found["finetune"].value == pytest.approx(70.0)
    assert (found["distilbert"].text, found["distilbert"].note) == (DASH, "no average without b")


def test_the_average_counts_mnli_once_and_its_diagnostic_never() -> None:
    def on_mnli(label: str, matched: float, mismatched: float) -> CellRecord:
        scores = {"validation": {"accuracy": matched}, "validation_mismatched": {"accuracy": mismatched}}
        return cell(label, "mnli", scores=scores)

    frame = from_records(
        [
            on_mnli("finetune", 0.80, 0.84),
            cell("finetune", "rte", value=0.60),
            cell("finetune", "ax", value=0.10),
            on_mnli("distilbert", 0.81, 0.81),
            cell("distilbert", "rte", value=0.61),
        ]
    )
    found = entries(frame, "average")
    assert found["finetune"].value == pytest.approx((82 + 60) / 2)
    assert found["finetune"].cells == tuple(cell("finetune", task).id for task in ("mnli", "rte"))
    assert found["distilbert"].value == pytest.approx((81 + 61) / 2)
    assert labels(frame)[0] == "distilbert"  # that of ax says nothing
    alone = from_records([cell("finetune", "ax"), cell("finetune", "rte")])
    assert average_column(alone) == []


def test_the_average_uses_the_seeds_that_finished_every_task() -> None:
    frame = from_records(
        [
            cell(task="a", seed=1, value=0.6),
            cell(task="a", seed=2, value=0.9),
            cell(task="b", seed=1, value=0.8),
        ]
    )
    assert entries(frame, "average")["finetune"].value == pytest.approx(70.0)


def test_the_teacher_is_the_baseline_of_every_speed_up(frame: Frame) -> None:
    assert entries(frame, "speed-up")["teacher"].value == 1.0


def test_a_speed_up_is_the_ratio_recorded_side_by_side(frame: Frame) -> None:
    entry = entries(frame, "speed-up")["finetune"]
    assert entry.value == pytest.approx(2.0, rel=0.02)
    assert entry.low is not None
    assert entry.high is not None
    assert entry.low <= entry.value <= entry.high


def test_a_speed_up_is_never_carried_across_environments() -> None:
    one, other = cell("finetune"), cell("distilbert")
    frame = from_records(
        [cell("teacher"), one, other, latency(one), latency(other, environment=OTHER_ENVIRONMENT.id)],
        environments={each.id: each for each in (ENVIRONMENT, OTHER_ENVIRONMENT)},
    )
    found = speedup_column(frame)[0].entries
    shown, dashed = sorted([found["finetune"], found["distilbert"]], key=lambda entry: entry.text == DASH)
    assert shown.value is not None
    assert (dashed.text, dashed.value) == (DASH, None)
    assert "never carried across" in dashed.note


def test_the_headline_is_the_setting_with_most_finished_timings() -> None:
    long = WorkloadRecord(name="b1xl512", batch_size=1, length=512)
    one, other = cell("finetune"), cell("distilbert")
    frame = from_records(
        [one, other, latency(one), latency(one, workload=long), latency(other, workload=long)]
    )
    assert "b1xl512" in caption(frame)
    assert entries(frame, "speed-up")["distilbert"].value is not None


def test_an_untimed_and_a_skipped_timing_say_so() -> None:
    one, other = cell("finetune"), cell("distilbert")
    frame = from_records(
        [one, other, cell("prune"), latency(one), latency(other, status="skipped", reason="no graph capture")]
    )
    found = entries(frame, "speed-up")
    assert (found["distilbert"].text, found["distilbert"].note) == (DASH, "skipped: no graph capture")
    assert (found["prune"].text, found["prune"].note) == (DASH, "not timed")


def test_warnings_of_a_timing_stand_beside_its_number() -> None:
    one = cell("finetune")
    frame = from_records([one, latency(one, warnings=["load average 7.3"])])
    assert "load average 7.3" in entries(frame, "speed-up")["finetune"].note


def test_without_timings_there_is_no_speed_up_column() -> None:
    frame = from_records([cell()])
    assert speedup_column(frame) == []
    assert "No timings." in caption(frame)


def test_stored_and_effective_sizes_stand_with_and_without_embeddings(frame: Frame) -> None:
    for kind, value in {"stored": "10.6", "effective": "7.07"}.items():
        assert entries(frame, f"{kind} encoder parameters (M)")["moebert"].text == value
    assert entries(frame, "stored parameters (M)")["moebert"].text == "22.7"


def test_a_size_that_differs_between_tasks_is_a_range() -> None:
    small, large = cell(task="a"), cell(task="b")
    assert large.cost is not None
    large = large.model_copy(update={"cost": large.cost.model_copy(update={"stored_parameters": 30_000_000})})
    assert entries(from_records([small, large]), "stored parameters (M)")["finetune"].text == "11.3–30.0"


def test_a_smoke_run_and_renamed_splits_are_said_in_the_caption() -> None:
    frame = from_records([cell(limit=64, splits={"train": "train-part", "validation": "validation"})])
    assert "SMOKE RUN: at most 64 rows" in caption(frame)
    assert "reviews does not use its own splits: train=train-part." in caption(frame)


def test_a_caption_states_device_runtime_dtype_threads_batch_length_seeds_and_convention(
    frame: Frame,
) -> None:
    for part in (
        "cpu",
        "runtime eager",
        "fp32",
        "1 thread",
        "batch 1",
        "128 tokens",
        "3 seeds (1, 2, 3)",
        "one fused multiply-add counts as one",
        "Example CPU, 2 cores",
    ):
        assert part in caption(frame)


def test_a_caller_may_add_a_column_of_its_own(frame: Frame) -> None:
    def draw(frame: Frame) -> list[Column]:
        return [Column("letters", {label: Entry(str(len(label)), len(label)) for label in labels(frame)})]

    table = main_table(frame, (*MAIN, ColumnEntry("letters", "Counts letters.", draw)))
    assert table.headings[-1] == "letters"
    assert table.rows[0][-1].text == "7"
    assert "Counts letters." in table.caption


def test_the_terminal_shows_the_same_texts(frame: Frame) -> None:
    shown = comparison_table(frame)
    assert shown["method"].tolist() == list(labels(frame))
    assert shown["reviews accuracy"].tolist() == [
        one.text for one in entries(frame, "reviews accuracy").values()
    ]


def test_sixty_methods_make_sixty_rows() -> None:
    frame = from_records(campaign([f"method {number}" for number in range(60)], seeds=(1,)))
    assert len(main_table(frame).rows) == 60


def test_a_single_method_on_one_seed_makes_a_table() -> None:
    table = main_table(from_records([cell("only")]))
    assert [row[0].text for row in table.rows] == ["only"]


def test_a_run_in_which_nothing_finished_still_says_why() -> None:
    frame = from_records([cell(status="failed", reason="no memory")])
    assert "No cell finished." in caption(frame)
    assert entries(frame, "reviews accuracy")["finetune"].note == "seed 1: failed: no memory"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.9996, "1.00"), (9.996, "10.0"), (12.34, "12.3"), (1234.5, "1230"), (0.01234, "0.0123")],
)
def test_sizes_show_three_digits(value: float, text: str) -> None:
    assert quantity([value], unit=1).text == text
