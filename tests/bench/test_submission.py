"""The zip for GLUE's server: what is written is held against the format, and the format's checker against bad zips."""

from __future__ import annotations

import re
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from constructed_data import write_data

from bench import submission
from bench.errors import UserError
from bench.matrix import load_matrix
from bench.recorded import recorded_cells
from bench.run import run
from bench.submission import FILES, HEADER, check, problems, submit
from bench.tasks.glue import OFFICIAL_ROWS
from results.store import RunFolder

TEST_ROWS = 10


def whole() -> dict[str, str]:
    """Return a submission of the official size."""
    return {name: submission._constant(file) for name, file in FILES.items()}


def zipped(path: Path, contents: dict[str, str]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in contents.items():
            archive.writestr(name, text)
    return path


def test_the_format_has_eleven_files_of_the_official_sizes(tmp_path):
    contents = whole()
    assert check(zipped(tmp_path / "whole.zip", contents)) == []
    assert {name: text.count("\n") - 1 for name, text in contents.items()} == {
        "CoLA.tsv": 1063,
        "SST-2.tsv": 1821,
        "MRPC.tsv": 1725,
        "STS-B.tsv": 1379,
        "QQP.tsv": 390965,
        "MNLI-m.tsv": 9796,
        "MNLI-mm.tsv": 9847,
        "QNLI.tsv": 5463,
        "RTE.tsv": 3000,
        "WNLI.tsv": 146,
        "AX.tsv": 1104,
    }


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("AX.tsv", None, r"AX.tsv: missing"),
        ("ax.tsv", "x", r"ax.tsv: no such file is wanted"),
        ("RTE.tsv", lambda text: text.replace("prediction", "label"), r"first line is 'index\\tlabel'"),
        ("RTE.tsv", lambda text: text[: text.rindex("2999")], r"2,999 rows, the split has 3,000"),
        ("RTE.tsv", lambda text: text.replace("\n5\t", "\n6\t"), r"line 7 is '6\\tentailment', not index 5"),
        ("RTE.tsv", lambda text: text.replace("\n5\t", "\n5,"), r"line 7 is '5,entailment'"),
        (
            "RTE.tsv",
            lambda text: text.replace("\n5\tentailment", "\n5\t0"),
            r"'0' is none of entailment, not_ent",
        ),
        ("SST-2.tsv", lambda text: text.replace("\n5\t0", "\n5\tpositive"), r"'positive' is none of 0, 1"),
        (
            "AX.tsv",
            lambda text: text.replace("\n5\tentailment", "\n5\tnot_entailment"),
            r"none of entailment, neut",
        ),
        (
            "STS-B.tsv",
            lambda text: text.replace("\n5\t0.000", "\n5\t5.001"),
            r"'5.001' is no number from 0 to 5",
        ),
        ("STS-B.tsv", lambda text: text.replace("\n5\t0.000", "\n5\tnan"), r"'nan' is no number"),
    ],
)
def test_what_the_server_would_not_take_is_named(name, change, message):
    contents = whole()
    if change is None:
        del contents[name]
    else:
        contents[name] = change if isinstance(change, str) else change(contents[name])
    found = problems(contents)
    assert len(found) == 1
    assert re.search(message, found[0]), found


def test_a_file_that_is_no_zip_is_named(tmp_path):
    (tmp_path / "no.zip").write_text("index\tprediction\n")
    assert "not a readable zip" in check(tmp_path / "no.zip")[0]


@pytest.fixture(scope="module")
def finished(long_checkpoint, tmp_path_factory):
    """A run of one method on a task of every kind of answer, and its data."""
    folder = tmp_path_factory.mktemp("submission")
    data = write_data(folder / "data", test=TEST_ROWS)
    matrix = {
        "name": "three",
        "teacher": str(long_checkpoint),
        "data": str(data),
        "tasks": ["cola", "stsb", "mnli"],
        "methods": ["finetune[layers=1]"],
        "budget": {"max_steps": 2, "batch_size": 8},
        "latency": None,
    }
    (folder / "three.yaml").write_text(yaml.safe_dump(matrix))
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MOEBENCH_CACHE", str(folder / "cache"))
        assert run(load_matrix(str(folder / "three.yaml")), folder / "run").failures == []
    return folder


@pytest.fixture
def small(monkeypatch):
    """Test splits of the size of the made-up rows."""
    for name in ("cola", "stsb", "mnli"):
        for role in [role for role in OFFICIAL_ROWS[name] if role.startswith("test")]:
            monkeypatch.setitem(OFFICIAL_ROWS[name], role, TEST_ROWS)


@pytest.mark.usefixtures("small")
def test_every_answer_is_the_checkpoints_own(finished, tmp_path):
    path, filled = submit(RunFolder(finished / "run"), "finetune", fill=True)
    assert path == finished / "run" / "submissions" / "finetune-0.zip"
    assert filled == ["sst2", "mrpc", "qqp", "qnli", "rte", "wnli"]
    assert check(path) == []
    with zipfile.ZipFile(path) as archive:
        lines = {name: archive.read(name).decode().splitlines() for name in FILES}
    assert lines["MNLI-mm.tsv"][0] == HEADER
    folder = RunFolder(finished / "run")
    records = {record.task: record for record in folder.records() if record.label == "finetune"}
    for name in ("CoLA.tsv", "STS-B.tsv", "MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"):
        expected = slowly(folder.model_folder(records[FILES[name].task].id), FILES[name], finished / "data")
        assert [line.split("\t")[1] for line in lines[name][1:]] == expected


def slowly(model_folder: Path, file: submission.File, data: Path) -> list[str]:
    """Answer a split row by row with plain transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    from bench.tasks import catalog

    task = catalog.find(file.task)
    configuration, _, stem = task.splits[file.role].rpartition(":")
    rows = pq.read_table(data / "glue" / (configuration or file.task) / f"{stem}.parquet").to_pylist()
    model = AutoModelForSequenceClassification.from_pretrained(model_folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_folder)
    answers = []
    for row in rows:
        with torch.inference_mode():
            logits = (
                model(**tokenizer(*(row[name] for name in task.text), return_tensors="pt")).logits[0].numpy()
            )
        if file.answers == "scores":
            answers.append(f"{np.clip(logits[0], 0, 5):.3f}")
        else:
            code = int(logits.argmax())
            answers.append(task.labels[code] if file.answers == "names" else str(code))
    return answers


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "finetune"}, r"no finished finetune at seed 0 on sst2, mrpc, .*wnli; .*--fill"),
        ({"method": "fintune"}, r"unknown method 'fintune'; did you mean 'finetune'"),
        ({"method": "finetune", "seed": 3}, r"unknown seed '3'"),
        ({"method": "finetune", "fill": True, "data": Path("/nowhere")}, r"/nowhere"),
    ],
)
def test_what_is_missing_is_named_and_nothing_is_written(finished, tmp_path, options, message):
    method = options.pop("method")
    with pytest.raises(UserError, match=message):
        submit(RunFolder(finished / "run"), method, out=tmp_path / "x.zip", **options)
    assert not (tmp_path / "x.zip").exists()


def test_a_test_split_that_is_not_whole_is_refused(finished, tmp_path):
    with pytest.raises(
        UserError, match=r"would not take this: CoLA.tsv: 10 rows, the split has 1,063; .*AX.tsv"
    ):
        submit(RunFolder(finished / "run"), "finetune", out=tmp_path / "x.zip", fill=True)
    assert not (tmp_path / "x.zip").exists()


@pytest.mark.usefixtures("small")
def test_a_smoke_run_is_not_submitted(finished, tmp_path, monkeypatch):
    def limited(folder: RunFolder):
        cells = recorded_cells(folder)
        for cell in cells:
            identity = cell.record.identity.model_copy(update={"limit": 5})
            yield replace(cell, record=cell.record.model_copy(update={"identity": identity}))

    monkeypatch.setattr("bench.recorded.recorded_cells", limited)
    with pytest.raises(UserError, match=r"is a smoke run \(--limit\), no result to submit: cola, stsb, mnli"):
        submit(RunFolder(finished / "run"), "finetune", out=tmp_path / "x.zip", fill=True)
    assert not (tmp_path / "x.zip").exists()
