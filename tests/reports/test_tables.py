"""The tables beside the main one: tests, literature, variants, latency, cost."""

from __future__ import annotations

from pathlib import Path

import pytest
from synthetic import campaign, cell, latency, save_predictions

from reports.entries import DASH, Entry, Group, Table
from reports.tables import TABLES, main_table
from reports.tables.ablation import ablation_tables
from reports.tables.comparison import comparison_tables, retained
from reports.tables.cost import cost_tables
from reports.tables.latency import latency_tables
from reports.tables.literature import literature_tables
from results.frame import Frame, from_records
from results.record import CellRecord, LatencyRecord, WorkloadRecord
from results.store import RunFolder


def rows(table: Table) -> dict[str, dict[str, Entry]]:
    return {row[0].text: dict(zip(table.headings, row, strict=True)) for row in table.rows}


def with_predictions(folder: Path, records: list[CellRecord | LatencyRecord]) -> Frame:
    for record in records:
        if isinstance(record, CellRecord):
            save_predictions(RunFolder(folder), record)
    return from_records(records, folder=RunFolder(folder))


@pytest.fixture
def tested(tmp_path: Path) -> Frame:
    return with_predictions(tmp_path, campaign())


def test_every_row_is_as_wide_as_the_headings(tested: Frame) -> None:
    for table in (main_table(tested), *(table for draw in TABLES for table in draw(tested))):
        assert {len(row) for row in table.rows} == {len(table.headings)}, table.name


def test_a_difference_stands_with_its_interval_and_corrected_p(tested: Frame) -> None:
    (table,) = comparison_tables(tested)
    found = rows(table)
    finetune = found["finetune"]["minus teacher"]
    assert finetune.low is not None
    assert finetune.high is not None
    assert finetune.value is not None
    assert finetune.low < finetune.value < finetune.high < 0
    assert finetune.text.startswith("−")
    assert found["moebert"]["minus best"].text == "the best"
    assert found["teacher"]["minus teacher"].text == "the teacher"
    assert 0 < (found["distilbert"]["p, best"].value or 0) <= 1
    assert found["moebert"]["label loyalty (%)"].n == 3


def test_the_caption_says_what_a_permutation_test_over_the_seeds_could_reach(tested: Frame) -> None:
    caption = " ".join(comparison_tables(tested)[0].caption)
    assert "over the 3 seeds that a pair shares could not go below p = 0.25" in caption


def test_only_seeds_that_a_pair_shares_count_for_the_permutation_test(tmp_path: Path) -> None:
    pairs = [
        ("teacher", 1),
        ("teacher", 2),
        ("finetune", 1),
        ("finetune", 2),
        ("distilbert", 2),
        ("distilbert", 3),
    ]
    frame = with_predictions(tmp_path, [cell(label, seed=seed) for label, seed in pairs])
    caption = " ".join(comparison_tables(frame)[0].caption)
    assert "over the 2 seeds that a pair shares at most could not go below p = 0.5" in caption
    assert "With one seed" in caption


def test_one_seed_tells_checkpoints_apart_not_methods(tmp_path: Path) -> None:
    frame = with_predictions(tmp_path, campaign(seeds=(1,)))
    caption = " ".join(comparison_tables(frame)[0].caption)
    assert "two checkpoints apart, not two methods" in caption
    assert "permutation" not in caption


def test_a_time_leads_to_its_timing_and_a_score_to_its_cells(frame: Frame) -> None:
    timed = set(frame.latency.loc[frame.latency["label"] == "moebert", "latency_id"])
    row = rows(latency_tables(frame)[0])["moebert"]
    assert set(row["speed-up"].cells) == set(row["p50 (ms)"].cells) == timed
    main = rows(main_table(frame))["moebert"]
    assert set(main["speed-up"].cells) == timed
    assert not timed & set(main["reviews accuracy"].cells)


def test_without_predictions_the_differences_say_so(frame: Frame) -> None:
    found = rows(comparison_tables(frame)[0])
    assert found["finetune"]["minus teacher"].text == DASH
    assert "no predictions" in found["finetune"]["minus teacher"].note


def test_retained_is_the_share_of_the_teacher_of_the_same_seed() -> None:
    frame = from_records(
        [
            cell("teacher", seed=1, value=0.8),
            cell("teacher", seed=2, value=0.5),
            cell("finetune", seed=1, value=0.4),
            cell("finetune", seed=2, value=0.5),
            cell("finetune", seed=3, value=0.9),
        ]
    )
    assert retained(frame, "reviews")["finetune"].mean == pytest.approx((0.5 + 1.0) / 2)


def test_a_teacher_at_zero_keeps_nothing_to_retain() -> None:
    frame = from_records([cell("teacher", value=0.0), cell(value=0.4)])
    assert "finetune" not in retained(frame, "reviews")
    assert rows(comparison_tables(frame)[0])["finetune"]["retained (%)"].text == DASH


def test_one_method_alone_has_nothing_to_compare() -> None:
    assert comparison_tables(from_records([cell()])) == []


def glue(label: str, paper: str) -> list[CellRecord]:
    scores = {
        "mrpc": {"validation": {"f1": 0.9, "accuracy": 0.86}},
        "sst2": {"validation": {"accuracy": 0.92}},
        "mnli": {"validation": {"accuracy": 0.84}, "validation_mismatched": {"accuracy": 0.83}},
    }
    cells = [
        cell(label, task=task, main_score=next(iter(found["validation"])), scores=found)
        for task, found in scores.items()
    ]
    return [one.model_copy(update={"paper": paper}) for one in cells]


def test_the_glue_table_has_the_papers_columns_and_both_scores_of_mrpc() -> None:
    (table,) = literature_tables(from_records(glue("moebert", "moebert2022")))
    assert table.headings == ("method", "MRPC F1", "MRPC acc", "SST-2 acc", "MNLI m", "MNLI mm")
    ours = [entry.value for entry in table.rows[0][1:]]
    assert ours == pytest.approx([90, 86, 92, 84, 83])


def test_printed_numbers_stand_in_blocks_of_their_source() -> None:
    (table,) = literature_tables(from_records(glue("moebert", "moebert2022")))
    assert [group.title for group in table.groups.values()] == [
        "measured here",
        "printed in Zuo et al., NAACL 2022 [moebert2022]",
    ]
    printed = rows(table)["MoEBERT (4 experts x 768, top-512 shared, hash-random)"]
    assert [entry.text for entry in printed.values()][1:] == ["92.6", "89.5", "93.0", "84.5", "84.8"]


def test_test_values_never_stand_beside_development_values() -> None:
    (table,) = literature_tables(from_records(glue("tinybert", "tinybert2020")))
    assert table.groups == {0: Group("measured here")}  # that paper prints GLUE test values alone


def test_a_contradicted_number_is_footnoted() -> None:
    (table,) = literature_tables(from_records(glue("moebert", "moebert2022")))
    assert "the DistilBERT paper and README print 91.3" in rows(table)["DistilBERT"]["SST-2 acc"].note


def test_a_limited_task_keeps_its_name_in_the_heading() -> None:
    frame = from_records([cell(task="sst2", limit=64), cell(task="sst2")])
    assert literature_tables(frame)[0].headings == ("method", "SST-2 acc", "SST-2 acc [limit=64]")


def test_squad_has_a_table_of_its_own() -> None:
    scores = {"validation": {"f1": 0.87, "exact_match": 0.79}}
    frame = from_records([cell(task="squad-v1.1", main_score="f1", scores=scores, head="extractive-qa")])
    (table,) = literature_tables(frame)
    assert table.name == "squad"
    assert [entry.value for entry in table.rows[0][1:]] == pytest.approx([79, 87])


def test_other_tasks_have_no_table_of_the_literature(frame: Frame) -> None:
    assert literature_tables(frame) == []


def variant(label: str, **config: object) -> CellRecord:
    return cell(label, config=config, method="moebert")


def test_variants_show_only_the_knobs_that_differ() -> None:
    frame = from_records(
        [
            variant("moebert", experts=4, routing="hash", width=768),
            variant("moebert[routing=gate]", experts=4, routing="gate", width=768, gate=0.1),
        ]
    )
    (table,) = ablation_tables(frame)
    assert table.headings[:3] == ("variant", "gate", "routing")
    assert rows(table)["moebert"]["gate"].text == DASH
    assert rows(table)["moebert[routing=gate]"]["routing"].text == "gate"


def test_methods_run_once_have_no_table_of_variants(frame: Frame) -> None:
    assert ablation_tables(frame) == []


def test_latency_has_a_block_for_each_set_of_conditions() -> None:
    one = cell("finetune")
    grid = [WorkloadRecord(name=f"b{batch}", batch_size=batch, length=128) for batch in (1, 8)]
    frame = from_records([one, *(latency(one, workload=workload) for workload in grid)])
    (table,) = latency_tables(frame)
    assert len(table.groups) == 2
    assert all("runtime eager, fp32, 1 thread" in group.title for group in table.groups.values())
    assert "energy of a call (mJ)" not in table.headings
    assert table.rows[0][1].value == pytest.approx(10, rel=0.02)


def test_a_skipped_timing_keeps_its_row_and_reason() -> None:
    one, other = cell("finetune"), cell("distilbert")
    frame = from_records(
        [one, other, latency(one), latency(other, status="skipped", reason="no graph capture")]
    )
    skipped = rows(latency_tables(frame)[0])["distilbert"]
    assert skipped["p50 (ms)"].text == DASH
    assert skipped["speed-up"].note == "skipped: no graph capture"


def test_cost_is_shown_by_task_with_both_peak_memories(frame: Frame) -> None:
    (table,) = cost_tables(frame)
    assert table.groups == {0: Group("reviews", "reviews")}
    finetune = rows(table)["finetune"]
    assert finetune["peak memory of training (MB)"].value == pytest.approx(300 * 2**20 / 1e6)
    assert finetune["peak memory of inference (MB)"].value == pytest.approx(100)
    assert finetune["multiply-adds (G)"].text == "0.700"


def test_a_smoke_run_is_said_in_the_caption_of_every_table() -> None:
    cells = [cell(label, task="sst2", limit=64) for label in ("teacher", "finetune", "distilbert")]
    frame = from_records([*cells, latency(cells[1])])
    drawn = [main_table(frame), *(table for draw in TABLES for table in draw(frame))]
    assert {table.name for table in drawn} == {"main", "comparison", "glue", "latency", "cost"}
    for table in drawn:
        assert table.caption[0].startswith("SMOKE RUN: at most 64 rows"), table.name
