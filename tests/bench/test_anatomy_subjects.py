"""Which task an anatomy takes where a run names one that its matrix has with other splits."""

from __future__ import annotations

import json

import yaml

from bench.anatomy.subjects import of_run
from bench.matrix import Choice
from bench.plans import find_task
from bench.survey import task_identity
from results.record import Budget, CellIdentity, CellRecord
from results.store import RunFolder


def test_a_task_is_found_by_its_name_with_the_options_that_it_has_in_the_matrix(tmp_path):
    part = Choice(name="mnli", options={"train": "train-part"})
    identity = CellIdentity(
        task=task_identity(find_task(part)),
        data="d",
        limit=None,
        calibration_rows=None,
        method="moebert",
        config={},
        teacher="t",
        budget=Budget(),
        seed=0,
        precision="fp32",
    )
    record = CellRecord(
        id=identity.cell_id,
        identity=identity,
        label="moebert",
        status="done",
        main_score="accuracy",
        scores={"validation": {"accuracy": 0.5}},
        environment="e",
        suite_version="0",
        started="",
        finished="",
    )
    folder = RunFolder(tmp_path)
    folder.write(record)
    folder.matrix_file.write_text(
        yaml.safe_dump({"name": "parts", "tasks": ["mnli[train=train-part]"], "methods": ["moebert"]})
    )
    folder.model_folder(record.id).mkdir(parents=True)
    (folder.model_folder(record.id) / "config.json").write_text(json.dumps({"model_type": "moebert"}))
    for name in ("mnli", "mnli[train=train-part]", None):
        (subject,) = of_run(tmp_path, name, None)
        assert subject.task.splits["train"] == "train-part"
