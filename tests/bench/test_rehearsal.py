"""What a process is spared that has rehearsed, and what a rehearsal leaves behind: nothing."""

from __future__ import annotations

import json
import logging
import os
import sys
import warnings
from pathlib import Path

import pytest
import yaml
from waiting import wait_until

from bench import rehearsal
from bench.executors import processes
from bench.executors.serial import run_watched
from bench.matrix import load_matrix
from bench.run import run
from bench.survey import Survey
from results.store import RunFolder

pytestmark = pytest.mark.usefixtures("cache")


def wait_for(folder: Path, pattern: str, count: int) -> None:
    wait_until(lambda: len(list(folder.glob(pattern))) >= count, 120, f"there are not {count} of {pattern}")


def watched(job, listener):
    """Make a cell, a student only once both have a process, and note what the process had to import for it."""
    notes = job.folder.parent
    (notes / f"{job.label}.begun").touch()
    wait_for(notes, "*.begun", 1 if job.teacher_id is None else 3)
    before = set(sys.modules)
    record = run_watched(job, listener)
    imported = sorted({name.partition(".")[0] for name in set(sys.modules) - before})
    (notes / f"{job.label}.json").write_text(json.dumps({"process": os.getpid(), "imported": imported}))
    return record


def test_a_process_that_waited_for_its_first_cell_has_all_that_others_have(
    tiny_matrix, tmp_path, monkeypatch
):
    monkeypatch.setattr(processes, "run_watched", watched)
    two = {
        "methods": ["finetune[layers=2]", "finetune[layers=3]"],
        "executor": {"name": "processes", "workers": 2},
    }
    tiny_matrix.write_text(yaml.safe_dump(yaml.safe_load(tiny_matrix.read_text()) | two))
    assert run(load_matrix(str(tiny_matrix)), tmp_path / "run").cells == {"done": 3}
    notes = {file.stem: json.loads(file.read_text()) for file in tmp_path.glob("*.json")}
    assert len({note["process"] for note in notes.values()}) == 2
    assert {"transformers", "datasets"} < set(notes.pop("teacher")["imported"])
    for note in notes.values():
        assert set(note["imported"]) <= {"methods"}, "their own method's modules are left for them to import"


def test_a_rehearsal_writes_and_logs_nothing(tiny_matrix, tmp_path, caplog, recwarn, monkeypatch):
    survey = Survey(load_matrix(str(tiny_matrix)), RunFolder(tmp_path / "run"), ())
    (teacher,) = survey.teachers()
    before = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")}
    original = rehearsal.train

    def warn_and_train(*arguments):
        logging.getLogger("within").warning("nobody should read this")
        warnings.warn("nor this", stacklevel=1)
        return original(*arguments)

    monkeypatch.setattr(rehearsal, "train", warn_and_train)
    rehearsal.rehearse(teacher.job)
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*")} == before
    assert not caplog.messages
    assert not recwarn.list
    logging.getLogger("after").warning("loggers speak again")
    assert caplog.messages == ["loggers speak again"]
