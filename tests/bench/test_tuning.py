"""Equal tuning from end to end on the tiny matrix: tries are cells that never see the validation split."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml

from bench.events import Event
from bench.matrix import load_matrix
from bench.recorded import recorded_cells, recorded_tries
from bench.run import run
from bench.tuning import combinations
from results.frame import load
from results.record import CellRecord, record_adapter
from results.store import RunFolder

pytestmark = pytest.mark.usefixtures("cache")

TUNING = {"tries": 2, "rows": 0.25, "max_steps": 6, "learning_rates": [1e-3, 1e-5]}


def with_keys(file: Path, **keys) -> Path:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | keys))
    return file


def made(events: list[Event]) -> list[str]:
    return [event.cell for event in events if event.kind == "finished"]


def cells_of(folder: Path) -> tuple[list[CellRecord], list[CellRecord]]:
    """Return the records of the matrix and those of the tries."""
    records = [record for record in RunFolder(folder).records() if isinstance(record, CellRecord)]
    tries = [record for record in records if record.identity.held_out]
    return [record for record in records if not record.identity.held_out], tries


@pytest.mark.parametrize(
    ("grid", "expected"),
    [
        ({}, [{}]),
        ({"a": [1, 2]}, [{"a": 1}, {"a": 2}]),
        (
            {"a": [1, 2, 3], "b": ["x", "y"]},
            [
                {"a": 1, "b": "x"},
                {"a": 2, "b": "x"},
                {"a": 1, "b": "y"},
                {"a": 3, "b": "x"},
                {"a": 2, "b": "y"},
                {"a": 3, "b": "y"},
            ],
        ),
    ],
)
def test_combinations_go_away_from_the_best_guess_step_by_step(grid, expected):
    assert combinations(grid) == expected


def test_every_method_and_the_teacher_have_the_same_tries_and_the_winner_makes_the_cells(
    tiny_matrix, tmp_path
):
    out, events = tmp_path / "run", []
    file = with_keys(tiny_matrix, methods=["finetune", "distilbert"], seeds=[0, 1], tuning=TUNING)
    outcome = run(load_matrix(str(file)), out, listener=events.append)
    assert outcome.failures == []
    assert (outcome.cells, outcome.tries) == ({"done": 6}, {"done": 6})
    assert made(events) == [
        "try of teacher with learning_rate=0.001 on tiny, seed 0",
        "try of teacher with learning_rate=1e-05 on tiny, seed 0",
        "try of finetune with learning_rate=0.001 on tiny, seed 0",
        "try of finetune with learning_rate=1e-05 on tiny, seed 0",
        "try of distilbert with learning_rate=0.001, temperature=2.0 on tiny, seed 0",
        "try of distilbert with learning_rate=1e-05, temperature=2.0 on tiny, seed 0",
        *(f"teacher on tiny, seed {seed}" for seed in (0, 1)),
        *(f"{method} on tiny, seed {seed}" for seed in (0, 1) for method in ("finetune", "distilbert")),
    ]
    cells, tries = cells_of(out)
    by_id = {record.id: record for record in tries}
    for record in tries:
        assert set(record.scores) == {"held_out"}
        assert set(record.rows) == {"train", "held_out"}
        assert sum(record.rows.values()) == 96
        assert record.training.steps == 6
        assert not RunFolder(out).predictions_file(record.id).exists()
        kept = record.identity.method == "teacher"  # one of them teaches the methods' tries
        assert RunFolder(out).model_folder(record.id).exists() == kept
    best = {}
    for record in tries:
        if record.identity.method == "teacher":
            best[record.scores["held_out"]["accuracy"]] = record
    (taught,) = {record.teacher_id for record in tries} - {None}
    assert best[max(best)].id == taught
    for record in cells:
        tuning = record.tuning
        assert [(one.id in by_id, one.status, one.steps) for one in tuning.tries] == [(True, "done", 6)] * 2
        assert [one.score for one in tuning.tries] == [
            by_id[one.id].scores["held_out"]["accuracy"] for one in tuning.tries
        ]
        assert tuning.tries[tuning.winner].score == max(one.score for one in tuning.tries)
        assert record.identity.budget.learning_rate == tuning.tries[tuning.winner].knobs["learning_rate"]
        assert record.identity.budget.max_steps is None
        assert tuning.combinations == (4 if record.label == "distilbert" else 2)
        assert tuning.allowed == 2
    again: list[Event] = []
    run(load_matrix(str(file)), out, listener=again.append)
    assert made(again) == []
    frame = load(out)
    assert set(frame.cells["label"]) == {"teacher", "finetune", "distilbert"}
    assert len(frame.cells) == 6


def test_a_try_never_opens_the_validation_split(tiny_matrix, tmp_path, monkeypatch):
    asked = []
    from bench import cell

    load_rows = cell.load_rows

    def watched(task, *, data, limit, roles):
        asked.append(roles)
        return load_rows(task, data=data, limit=limit, roles=roles)

    monkeypatch.setattr(cell, "load_rows", watched)
    run(load_matrix(str(with_keys(tiny_matrix, tuning=TUNING))), tmp_path / "run")
    assert asked == [("train",)] * 4 + [None] * 2


def test_a_killed_tuning_goes_on_and_a_failed_try_is_made_again(tiny_matrix, tmp_path, monkeypatch):
    from methods.finetune import FineTune

    out = tmp_path / "run"
    file = with_keys(tiny_matrix, tuning=TUNING)
    compress, calls = FineTune.compress, []

    def once_killed(self, teacher, calibration, task):
        calls.append(task)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return compress(self, teacher, calibration, task)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(FineTune, "compress", once_killed)
        run(load_matrix(str(file)), out)
    listed = [(cell.label, cell.state) for cell in recorded_tries(RunFolder(out))]
    assert listed == [
        ("teacher with learning_rate=0.001", "done"),
        ("teacher with learning_rate=1e-05", "done"),
        ("finetune with learning_rate=0.001", "done"),
        ("finetune with learning_rate=1e-05", "missing"),
    ]
    assert {cell.state for cell in recorded_cells(RunFolder(out))} == {"missing"}

    def explode(self, teacher, calibration, task):
        raise RuntimeError("no such layer")

    events: list[Event] = []
    with monkeypatch.context() as patched:
        patched.setattr(FineTune, "compress", explode)
        outcome = run(load_matrix(str(file)), out, listener=events.append)
    assert made(events) == [
        "try of finetune with learning_rate=1e-05 on tiny, seed 0",
        "teacher on tiny, seed 0",
        "finetune on tiny, seed 0",
    ]
    assert outcome.tries == {"done": 3, "failed": 1}
    assert len(outcome.failures) == 2
    events = []
    outcome = run(load_matrix(str(file)), out, listener=events.append)
    assert made(events) == [
        "try of finetune with learning_rate=1e-05 on tiny, seed 0",
        "finetune on tiny, seed 0",
    ]
    assert outcome.tries == {"done": 4}
    assert [cell.reason for cell in recorded_tries(RunFolder(out))].count("won") == 2
    assert {cell.state for cell in recorded_cells(RunFolder(out))} == {"done"}
    (student,) = [record for record in cells_of(out)[0] if record.label == "finetune"]
    assert [one.status for one in student.tuning.tries] == ["done", "done"]


def test_more_tries_keep_the_old_ones_and_set_aside_what_they_beat(tiny_matrix, tmp_path, monkeypatch):
    out = tmp_path / "run"
    rising = iter(range(100))
    monkeypatch.setattr(
        "bench.cell.score", lambda *_: {"accuracy": next(rising) / 100}
    )  # the later, the better
    poor = TUNING | {"tries": 1}
    run(load_matrix(str(with_keys(tiny_matrix, tuning=poor))), out)
    (before,) = [record for record in cells_of(out)[0] if record.label == "finetune"]
    events: list[Event] = []
    outcome = run(
        load_matrix(str(with_keys(tiny_matrix, tuning=poor | {"tries": 2}))), out, listener=events.append
    )
    assert outcome.failures == []
    assert "try of teacher with learning_rate=0.001 on tiny, seed 0" not in made(events)
    (after,) = [record for record in cells_of(out)[0] if record.label == "finetune"]
    assert after.id != before.id
    assert [one.knobs["learning_rate"] for one in after.tuning.tries] == [1e-3, 1e-5]
    assert (out / "superseded" / f"{before.id}.json").exists()
    assert len(load(out).cells) == 2


def test_one_task_decides_for_its_kind(tiny_matrix, tiny_task, tmp_path):
    folder = tmp_path / "task"
    shutil.copytree(tiny_task.parent, folder)
    other = folder / "other.yaml"
    other.write_text((folder / "tiny.yaml").read_text().replace("name: tiny", "name: other"))
    tuning = TUNING | {"tasks": {"classification": "tiny"}}
    file = with_keys(tiny_matrix, tasks=[str(tiny_task), str(other)], tuning=tuning)
    outcome = run(load_matrix(str(file)), tmp_path / "run")
    assert outcome.tries == {"done": 4}
    assert outcome.cells == {"done": 4}
    students = {record.task: record for record in cells_of(tmp_path / "run")[0] if record.label == "finetune"}
    assert {record.tuning.task for record in students.values()} == {"tiny"}
    assert students["other"].tuning == students["tiny"].tuning
    only_other = load_matrix(
        str(with_keys(file, tasks=[str(other)], tuning=TUNING | {"tasks": {"other": str(tiny_task)}}))
    )
    assert run(only_other, tmp_path / "run").tries == {"done": 4}


def test_knobs_of_the_matrix_are_not_tried(tiny_matrix, tmp_path):
    file = with_keys(tiny_matrix, methods=["distilbert[learning_rate=2e-3,temperature=3.0]"], tuning=TUNING)
    run(load_matrix(str(file)), tmp_path / "run")
    (student,) = [record for record in cells_of(tmp_path / "run")[0] if record.label == "distilbert"]
    assert [one.knobs for one in student.tuning.tries] == [{}]
    assert student.identity.budget.learning_rate == 2e-3
    assert student.identity.config["temperature"] == 3.0


def test_records_from_before_tuning_are_read_and_keep_their_ids():
    campaign = Path(__file__).parents[2] / "results" / "campaigns" / "quickstart" / "records"
    read = 0
    for file in sorted(campaign.iterdir()):
        record = record_adapter.validate_python(json.loads(file.read_bytes()))
        if isinstance(record, CellRecord):
            assert record.identity.cell_id == record.id == file.stem
            assert record.tuning is None
            read += 1
    assert read


def test_the_card_of_a_method_shows_budget_tries_and_winner(tiny_matrix, tmp_path):
    from reports.cards import cards

    run(
        load_matrix(str(with_keys(tiny_matrix, methods=["finetune"], seeds=[0, 1], tuning=TUNING))),
        tmp_path / "run",
    )
    (student,) = [record.tuning for record in cells_of(tmp_path / "run")[0] if record.label == "finetune"][:1]
    for card in cards(load(tmp_path / "run")):
        facts = dict(card.facts)
        assert facts["tuning on tiny"] == (
            "2 of 2 tries, 2 combinations in the grid, at most 6 steps each; accuracy on rows held out from train: "
            "25% of the training rows, at most 5,000, seed 0"
        )
        assert ["chosen" in facts[f"try {number} on tiny"] for number in (1, 2)].count(True) == 1
        if card.label == "finetune":
            for number, one in enumerate(student.tries, start=1):
                said = f"learning_rate={one.knobs['learning_rate']}: accuracy {one.score:.4f} after 6 steps"
                assert facts[f"try {number} on tiny"].startswith(said)


def test_the_command_line_shows_the_tries_apart(moebench, tiny_matrix, tmp_path):
    out = tmp_path / "run"
    with_keys(tiny_matrix, tuning=TUNING)
    code, shown, _ = moebench("run", tiny_matrix, "--out", out, "--dry-run")
    assert code == 0
    assert "tries: 4 missing" in shown
    assert "cells: 2 missing" in shown
    assert "4 tries and 2 cells to make" in shown
    assert not out.exists()
    code, shown, errors = moebench("run", tiny_matrix, "--out", out)
    assert code == 0, errors
    document = json.loads(shown.strip().splitlines()[-1])
    assert (document["tries"], document["cells"]) == ({"done": 4}, {"done": 2})
    _, shown, _ = moebench("ls", "cells", out)
    tries, _, cells = shown.partition("cells: 2 done")
    assert tries.count("won") == 2
    assert "finetune with learning_rate=1e-05" in tries
    assert "with" not in cells
    page = (out / "report" / "report.html").read_text()
    assert "tuning on tiny" in page
    code, _, errors = moebench("run", with_keys(tiny_matrix, tuning={"tasks": {"tinny": "tiny"}}))
    assert code == 2
    assert "tuning.tasks: unknown task or kind 'tinny'; did you mean 'tiny'?" in errors
