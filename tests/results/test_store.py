from __future__ import annotations

import json
import logging
import multiprocessing
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from results.environment import current
from results.errors import RunFolderError
from results.record import (
    SCHEMA_VERSION,
    Budget,
    CellIdentity,
    CellRecord,
    HeldOut,
    LatencyRecord,
    WorkloadRecord,
    canonical_json,
    digest,
)
from results.store import RunFolder, merge, whole_folder, write_atomically


def cell(
    seed=0, method="finetune", status="done", weights="w", finished="2026-01-01T00:00:00+00:00"
) -> CellRecord:
    identity = CellIdentity(
        task={"name": "tiny"},
        data="d",
        limit=None,
        calibration_rows=None,
        method=method,
        config={},
        teacher="t",
        budget=Budget(),
        seed=seed,
        precision="fp32",
    )
    return CellRecord(
        id=identity.cell_id,
        identity=identity,
        label=method,
        status=status,
        main_score="accuracy",
        environment="e",
        suite_version="0",
        started=finished,
        finished=finished,
        weights_sha256=weights,
    )


def test_a_record_comes_back_as_it_was_written(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write(cell())
    assert folder.records() == [cell()]
    assert folder.record(cell().id) == cell()
    assert folder.record("absent") is None


def test_the_id_depends_on_every_part_of_the_identity():
    identity = cell().identity
    changed = {
        "task": {"name": "other"},
        "data": "x",
        "limit": 3,
        "calibration_rows": 3,
        "method": "x",
        "config": {"a": 1},
        "teacher": "x",
        "budget": Budget(epochs=9),
        "seed": 9,
        "precision": "bf16",
        "held_out": HeldOut(share=0.1, most=100, seed=0),
        "schema_version": 0,
    }
    assert set(changed) == set(CellIdentity.model_fields)
    ids = {identity.model_copy(update={key: value}).cell_id for key, value in changed.items()}
    assert len(ids | {identity.cell_id}) == len(changed) + 1


def test_the_id_does_not_move():
    """Committed campaigns are found by it."""
    assert canonical_json({"b": 1, "a": [1.5, None, "é"]}) == '{"a":[1.5,null,"é"],"b":1}'
    assert digest({"b": 1, "a": [1.5, None, "é"]}) == "10c71012fb391fea"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", '{"schema_version": 1}', '{"schema_version": 1, "kind": "cell"}']
)
def test_a_corrupt_record_is_set_aside_with_a_warning(tmp_path, caplog, content):
    folder = RunFolder(tmp_path)
    folder.write(cell())
    folder.record_file("broken").write_text(content)
    with caplog.at_level(logging.WARNING):
        assert folder.records() == [cell()]
    assert "broken.json" in caplog.text
    assert (tmp_path / "corrupt" / "broken.json").read_text() == content
    assert not folder.record_file("broken").exists()


def test_a_record_under_a_wrong_name_is_set_aside(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write(cell())
    folder.record_file(cell().id).rename(folder.record_file("other"))
    assert folder.records() == []


def test_a_newer_schema_is_refused_and_left_alone(tmp_path):
    folder = RunFolder(tmp_path)
    folder.write(cell())
    file = folder.record_file(cell().id)
    document = json.loads(file.read_text()) | {"schema_version": SCHEMA_VERSION + 1, "new_key": 1}
    file.write_text(json.dumps(document))
    with pytest.raises(RunFolderError, match=f"written by schema {SCHEMA_VERSION + 1}.*update moebert-bench"):
        folder.records()
    assert file.exists()


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    file = tmp_path / "file"
    write_atomically(file, b"old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("results.store.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [file]


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "models" / "a"
    with pytest.raises(ZeroDivisionError), whole_folder(target) as folder:
        (folder / "half").write_text("x")
        _ = 1 / 0
    assert list(target.parent.iterdir()) == []
    for text in ("one", "two"):
        with whole_folder(target) as folder:
            (folder / "file").write_text(text)
    assert [path.read_text() for path in target.iterdir()] == ["two"]


def _hold(path: str, held, release) -> None:
    with RunFolder(Path(path)).lock():
        held.set()
        release.wait(30)


def test_two_runs_do_not_share_a_folder_and_a_killed_one_frees_it(tmp_path):
    context = multiprocessing.get_context("spawn")
    held, release = context.Event(), context.Event()
    process = context.Process(target=_hold, args=(str(tmp_path), held, release))
    process.start()
    assert held.wait(60)
    with pytest.raises(RunFolderError, match="another run"), RunFolder(tmp_path).lock():
        pass
    process.kill()
    process.join()
    with RunFolder(tmp_path).lock():
        pass


def test_environments_are_kept_by_id(tmp_path):
    folder = RunFolder(tmp_path)
    name = folder.write_environment(current())
    assert folder.write_environment(current()) == name
    assert folder.environments() == {name: current()}
    assert current().packages["torch"]


def test_merge_joins_and_a_finished_record_wins_over_a_failed_one(tmp_path):
    left, right = RunFolder(tmp_path / "left"), RunFolder(tmp_path / "right")
    left.write(cell(0, status="failed", finished="2026-01-03T00:00:00+00:00"))
    right.write(cell(0, finished="2026-01-02T00:00:00+00:00"))
    right.write(cell(1))
    write_atomically(right.predictions_file(cell(0).id), b"predictions")
    write_atomically(right.model_folder(cell(0).id) / "model.safetensors", b"weights")
    out = tmp_path / "out"
    assert merge([left.path, right.path], out) == 2
    joined = RunFolder(out)
    assert joined.record(cell(0).id).status == "done"
    assert joined.predictions_file(cell(0).id).read_bytes() == b"predictions"
    assert (joined.model_folder(cell(0).id) / "model.safetensors").read_bytes() == b"weights"
    assert merge([out, left.path], out) == 2


def test_merge_refuses_two_teachers_under_one_seed(tmp_path):
    left, right = RunFolder(tmp_path / "left"), RunFolder(tmp_path / "right")
    left.write(cell(method="teacher", weights="a"))
    other = cell(method="teacher", weights="b")
    identity = other.identity.model_copy(update={"teacher": "elsewhere"})
    right.write(other.model_copy(update={"identity": identity, "id": identity.cell_id}))
    with pytest.raises(RunFolderError, match="two teachers for task 'tiny', seed 0"):
        merge([left.path, right.path], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def as_try(record: CellRecord) -> CellRecord:
    identity = record.identity.model_copy(update={"held_out": HeldOut(share=0.1, most=100, seed=0)})
    return record.model_copy(update={"id": identity.cell_id, "identity": identity})


def test_tries_of_a_teacher_are_no_two_teachers(tmp_path):
    one, two = RunFolder(tmp_path / "one"), RunFolder(tmp_path / "two")
    one.write(cell(method="teacher", weights="a"))
    two.write(as_try(cell(method="teacher", weights="b")))
    assert merge([one.path, two.path], tmp_path / "joined") == 2


def test_what_later_tuning_replaced_is_set_aside_with_its_timings(tmp_path):
    folder = RunFolder(tmp_path)
    teacher, old, kept = cell(method="teacher"), cell(), cell(method="distilbert")
    timing = LatencyRecord(
        id="timing",
        status="done",
        cell_id=old.id,
        baseline_id=teacher.id,
        task="tiny",
        method="finetune",
        label="finetune",
        seed=0,
        workload=WorkloadRecord(name="1x32", batch_size=1, length=32),
        runtime="eager",
        device="cpu",
        dtype="fp32",
        threads=1,
        environment="e",
        suite_version="0",
        started="",
        finished="",
    )
    for record in (teacher, old, kept, timing):
        folder.write(record)
    folder.set_superseded_aside([old.id])
    assert {record.id for record in folder.records()} == {teacher.id, kept.id}
    assert {file.stem for file in (tmp_path / "superseded").iterdir()} == {old.id, "timing"}
    folder.write(old)
    folder.write(timing)
    folder.set_superseded_aside([teacher.id])
    assert {record.id for record in folder.records()} == {old.id, kept.id}
    folder.set_superseded_aside([])
    assert {record.id for record in folder.records()} == {old.id, kept.id}


def test_merge_names_a_folder_that_is_none(tmp_path):
    with pytest.raises(RunFolderError, match="nowhere: not a run folder"):
        merge([tmp_path / "nowhere"], tmp_path / "out")


KILLED = """
import os, shutil, signal, sys
from pathlib import Path
from results.store import whole_folder

step, path = int(sys.argv[1]), Path(sys.argv[2])
def counted(act):
    def stand_in(*args, **options):
        global step
        step -= 1
        if step == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return act(*args, **options)
    return stand_in
Path.replace, shutil.rmtree = counted(Path.replace), counted(shutil.rmtree)
with whole_folder(path) as folder:
    for name in ("one", "two"):
        (folder / name).write_text("new")
"""


@pytest.mark.parametrize("step", range(1, 6))
def test_a_kill_at_any_rename_or_removal_leaves_one_whole_folder(step: int, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    for name in ("one", "two"):
        (out / name).write_text("old")
    command = [sys.executable, "-c", KILLED, str(step), str(out)]
    code = subprocess.run(command, cwd=Path(__file__).parent.parent.parent, check=False).returncode
    assert code == (-signal.SIGKILL if step < 5 else 0)
    places = [place for place in (out, tmp_path / ".out.earlier") if place.exists()]
    whole = {frozenset((file.name, file.read_text()) for file in place.iterdir()) for place in places}
    assert whole
    assert whole <= {frozenset({("one", age), ("two", age)}) for age in ("old", "new")}
    with (
        pytest.raises(ZeroDivisionError),
        whole_folder(out),
    ):  # the next call, which fails, finds the folder again
        raise ZeroDivisionError
    assert {file.name for file in out.iterdir()} == {"one", "two"}
