"""A matrix from end to end, in this process; the teacher, the data and the methods are real, only small."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import pytest
import yaml

from bench.events import Event
from bench.matrix import load_matrix
from bench.recorded import recorded_cells
from bench.run import run
from results.record import CellRecord
from results.store import RunFolder

pytestmark = pytest.mark.usefixtures("cache")


def with_keys(file: Path, **keys) -> Path:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | keys))
    return file


def contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in sorted((folder / "records").iterdir())}


def made(events: list[Event]) -> list[str]:
    return [event.cell for event in events if event.kind == "finished"]


def test_a_matrix_leaves_records_models_and_predictions(tiny_matrix, tmp_path):
    out, events = tmp_path / "run", []
    file = with_keys(tiny_matrix, methods=["finetune[layers=2]", "distilbert"], seeds=[0, 1])
    outcome = run(load_matrix(str(file)), out, listener=events.append)
    assert outcome.cells == {"done": 6}
    assert outcome.failures == []
    folder = RunFolder(out)
    for record in folder.records():
        assert isinstance(record, CellRecord)
        assert record.scores["validation"][record.main_score] >= 0
        assert record.rows == {"train": 96, "validation": 48}
        assert record.cost.stored_parameters > 0
        assert (
            folder.model_folder(record.id) / "model.safetensors"
        ).stat().st_size <= record.cost.checkpoint_bytes
        assert folder.predictions_file(record.id).exists()
        assert record.environment in folder.environments()
    teachers = {
        record.identity.seed: record for record in folder.records() if record.identity.method == "teacher"
    }
    orders = Counter()
    for record in folder.records():
        if record.identity.method != "teacher":
            teacher = teachers[record.identity.seed]
            assert record.teacher_id == teacher.id
            assert record.identity.teacher == teacher.weights_sha256
            orders[record.identity.seed, record.training.order_sha256] += 1
    assert sorted(orders.values()) == [2, 2]  # both methods saw the rows in one order at each seed
    assert made(events)[:2] == ["teacher on tiny, seed 0", "teacher on tiny, seed 1"]
    assert not (out / "checkpoints").exists() or not any((out / "checkpoints").iterdir())


def test_running_again_repeats_nothing_and_a_new_method_trains_no_new_teacher(tiny_matrix, tmp_path):
    out, events = tmp_path / "run", []
    run(load_matrix(str(tiny_matrix)), out)
    before = contents(out)
    run(load_matrix(str(tiny_matrix)), out, listener=events.append)
    assert made(events) == []
    assert contents(out) == before
    more = load_matrix(str(tiny_matrix), {"methods": ["finetune[layers=2]", "finetune[layers=1]"]})
    run(more, out, listener=events.append)
    assert made(events) == ["finetune[layers=1] on tiny, seed 0"]


def test_a_failing_method_leaves_a_failed_record_and_the_matrix_goes_on(tiny_matrix, tmp_path, monkeypatch):
    from methods.distilbert import DistilBert

    def explode(self, teacher, calibration, task):
        raise RuntimeError("no such layer\nsecond line")

    file = with_keys(tiny_matrix, methods=["distilbert", "finetune[layers=2]"])
    with monkeypatch.context() as patched:
        patched.setattr(DistilBert, "compress", explode)
        outcome = run(load_matrix(str(file)), tmp_path / "run")
    assert outcome.cells == {"done": 2, "failed": 1}
    assert outcome.failures == ["distilbert on tiny, seed 0: RuntimeError: no such layer"]
    (failed,) = [record for record in RunFolder(tmp_path / "run").records() if record.status == "failed"]
    assert "explode" in failed.failure.traceback
    events: list[Event] = []
    run(load_matrix(str(file)), tmp_path / "run", overwrite="never", listener=events.append)
    assert made(events) == []
    run(load_matrix(str(file)), tmp_path / "run", listener=events.append)
    assert made(events) == ["distilbert on tiny, seed 0"]
    assert {record.status for record in RunFolder(tmp_path / "run").records()} == {"done"}


def test_a_skip_is_recorded_with_its_reason_and_is_no_failure(tiny_matrix, tmp_path, monkeypatch):
    from bench.method import Skip
    from methods.finetune import FineTune

    monkeypatch.setattr(FineTune, "supports", lambda self, task, teacher: Skip("too tiny for that"))
    outcome = run(load_matrix(str(tiny_matrix)), tmp_path / "run")
    assert outcome.cells == {"done": 1, "skipped": 1}
    assert outcome.failures == []
    listed = recorded_cells(RunFolder(tmp_path / "run"))
    assert [(cell.state, cell.reason) for cell in listed] == [("done", ""), ("skipped", "too tiny for that")]


def test_a_changed_source_makes_cells_stale_not_missing(tiny_matrix, tmp_path, monkeypatch):
    out = tmp_path / "run"
    run(load_matrix(str(tiny_matrix)), out)
    monkeypatch.setattr("bench.registry._source_sha256", lambda module: "edited")
    assert [cell.state for cell in recorded_cells(RunFolder(out))] == ["done", "stale"]
    events: list[Event] = []
    run(load_matrix(str(tiny_matrix)), out, listener=events.append)
    assert made(events) == []
    run(load_matrix(str(tiny_matrix)), out, overwrite="stale", listener=events.append)
    assert made(events) == ["finetune on tiny, seed 0"]
    run(load_matrix(str(tiny_matrix)), out, overwrite="always", listener=events.append)
    assert made(events)[1:] == ["teacher on tiny, seed 0", "finetune on tiny, seed 0"]


def test_the_same_cell_gives_the_same_weights(tiny_matrix, tmp_path):
    digests = []
    for name in ("one", "two"):
        run(load_matrix(str(tiny_matrix)), tmp_path / name)
        digests.append({record.id: record.weights_sha256 for record in RunFolder(tmp_path / name).records()})
    assert digests[0] == digests[1]


def test_a_smoke_run_never_mixes_with_a_full_one(tiny_matrix, tmp_path):
    out = tmp_path / "run"
    run(load_matrix(str(tiny_matrix)), out)
    run(load_matrix(str(tiny_matrix), {"limit": 32}), out)
    limits = Counter(record.identity.limit for record in RunFolder(out).records())
    assert limits == {None: 2, 32: 2}
    (smoke, _) = [record for record in RunFolder(out).records() if record.identity.limit == 32]
    assert smoke.rows == {"train": 32, "validation": 32}


def test_a_corrupt_record_is_set_aside_and_its_cell_run_again(tiny_matrix, tmp_path, caplog):
    out, events = tmp_path / "run", []
    run(load_matrix(str(tiny_matrix)), out)
    (student,) = [record for record in RunFolder(out).records() if record.label == "finetune"]
    RunFolder(out).record_file(student.id).write_text('{"schema_version": 1, "kind": "ce')
    with caplog.at_level(logging.WARNING):
        run(load_matrix(str(tiny_matrix)), out, listener=events.append)
    assert "moved to" in caplog.text
    assert made(events) == ["finetune on tiny, seed 0"]


def test_a_teacher_that_fits_the_task_is_used_as_it_is(tiny_matrix, tmp_path):
    run(load_matrix(str(tiny_matrix)), tmp_path / "first")
    (teacher,) = [record for record in RunFolder(tmp_path / "first").records() if record.label == "teacher"]
    folder = RunFolder(tmp_path / "first").model_folder(teacher.id)
    run(load_matrix(str(tiny_matrix), {"teacher": str(folder)}), tmp_path / "second")
    (used,) = [record for record in RunFolder(tmp_path / "second").records() if record.label == "teacher"]
    assert used.training is None
    assert used.weights_sha256 == teacher.weights_sha256
    assert used.scores == teacher.scores


@pytest.mark.slow
def test_processes_make_the_same_cells_as_one_after_another(tiny_matrix, tmp_path):
    file = with_keys(tiny_matrix, methods=["finetune[layers=2]", "distilbert"], seeds=[0, 1])
    run(load_matrix(str(file)), tmp_path / "serial")
    events: list[Event] = []
    run(
        load_matrix(str(file), {"executor": {"name": "processes"}}),
        tmp_path / "processes",
        listener=events.append,
    )
    assert Counter(event.kind for event in events)["started"] == 6

    def found(name):
        return {record.id: record.weights_sha256 for record in RunFolder(tmp_path / name).records()}

    assert found("serial") == found("processes")


def test_the_matrix_is_kept_beside_its_records(tiny_matrix, tmp_path):
    matrix = load_matrix(str(tiny_matrix))
    run(matrix, tmp_path / "run")
    assert load_matrix(str(tmp_path / "run" / "matrix.yaml")) == matrix
    document = json.loads(json.dumps(run(matrix, tmp_path / "run").document()))
    assert document["cells"] == {"done": 2}
