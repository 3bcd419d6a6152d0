"""The command line as people use it: in this process where it can be, in one of its own where it is killed."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from preloaded import Preloaded

from results.record import CellRecord
from results.store import RunFolder

pytestmark = pytest.mark.usefixtures("cache")


def edited(file: Path, **keys) -> Path:
    file.write_text(yaml.safe_dump(yaml.safe_load(file.read_text()) | keys))
    return file


def test_a_run_ends_with_the_table_the_report_and_one_json_line(moebench, tiny_matrix, tmp_path):
    out = tmp_path / "run"
    code, stdout, stderr = moebench("run", tiny_matrix, "--out", out)
    assert code == 0, stderr
    lines = stdout.strip().splitlines()
    document = json.loads(lines[-1])
    assert document["cells"] == {"done": 2}
    assert Path(document["report"]).exists()
    assert "finetune" in stdout
    assert re.search(r"done +finetune on tiny, seed 0 +\(2 done, 0 failed, 0 left\)", stderr)
    code, stdout, _ = moebench("ls", "cells", out)
    assert code == 0
    assert "2 done" in stdout
    record = next(record for record in RunFolder(out).records() if record.label == "finetune")
    code, stdout, _ = moebench("show", out, record.id[:8])
    assert code == 0
    assert record.weights_sha256 in stdout
    code, stdout, _ = moebench("report", out, "--out", tmp_path / "again")
    assert code == 0
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == sorted(
        path.name for path in (out / "report").iterdir()
    )


def test_a_second_matrix_in_the_same_folder_is_reported_by_itself(moebench, tiny_matrix, tmp_path):
    out = tmp_path / "run"
    for layers in (2, 3):  # both are called finetune, so one table could not hold the two
        code, stdout, stderr = moebench(
            "run", tiny_matrix, "--method", f"finetune[layers={layers}]", "--out", out
        )
        assert code == 0, stderr
        document = json.loads(stdout.strip().splitlines()[-1])
        assert document["cells"] == {"done": 2}
        with (out / "report" / "records.csv").open() as file:
            reported = {row["label"]: json.loads(row["config"]) for row in csv.DictReader(file)}
        assert reported == {"teacher": {}, "finetune": {"layers": layers}}
    assert len(list((out / "records").iterdir())) == 3
    code, _, stderr = moebench("report", out, "--out", tmp_path / "all")
    assert code == 2
    assert "2 cells for 'finetune' on 'tiny', seed 0" in " ".join(stderr.split())


def test_a_failed_cell_makes_the_exit_code_one(moebench, tiny_matrix, tmp_path, monkeypatch):
    from methods.finetune import FineTune

    monkeypatch.setattr(FineTune, "compress", lambda *_: 1 / 0)
    code, stdout, stderr = moebench("run", tiny_matrix, "--out", tmp_path / "run")
    assert code == 1
    assert json.loads(stdout.strip().splitlines()[-1])["cells"] == {"done": 1, "failed": 1}
    assert "ZeroDivisionError" in stderr


def test_a_dry_run_lists_cells_and_writes_nothing(moebench, tiny_matrix, tmp_path):
    code, stdout, _ = moebench("run", tiny_matrix, "--out", tmp_path / "run", "--dry-run", "--seeds", "0-2")
    assert code == 0
    assert re.search(r"6 cells to make, about \d+ min here", stdout)
    assert "its teacher is missing" in stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "quikstart"], r"unknown preset 'quikstart'; did you mean 'quickstart'\?"),
        (["run", "{matrix}", "--method", "moebrt"], r"unknown method 'moebrt'; did you mean 'moebert'\?"),
        (
            ["run", "{matrix}", "--method", "finetune[layer=2]"],
            r"unknown key 'layer'; did you mean 'layers'\?",
        ),
        (["run", "{matrix}", "--task", "rotten"], r"unknown task 'rotten'"),
        (["run", "{matrix}", "--seeds", "1,1"], r"each number once"),
        (["run", "{matrix}", "--seeds", "one"], r"write numbers"),
        (["run", "{matrix}", "--devices", "99"], r"there is no GPU 99"),
        (["run", "{matrix}", "--devices", "1,1"], r"--devices '1,1': each number once"),
        (["run", "{matrix}", "--limit", "0"], r"greater than or equal to 1|x>=1"),
        (
            ["run", "{matrix}", "--runtime", "cuda-graf"],
            r"unknown runtime 'cuda-graf'; did you mean 'cuda-graph'",
        ),
        (["run", "{matrix}", "--executor", "threads"], r"'serial', 'processes'|serial"),
        (["run", "{matrix}", "--teacher", "./nowhere"], r"nowhere"),
        (["run", "{matrix}", "--teacher", "bert-base-uncased"], r"40 hex digits of a commit"),
        (["run", "{matrix}", "--lmit", "3"], r"^error: .*--lmit"),
        (["ls", "cells"], r"say which run"),
        (["ls", "cells", "."], r"not a run folder"),
        (["show", "nothing-like-it"], r"unknown run folder, method, task or preset"),
        (["report", "{tmp}/nowhere"], r"nowhere"),
        (["merge", "{tmp}/a", "--out", "{tmp}/b"], r"not a run folder"),
        (["cp", "quikstart"], r"did you mean 'quickstart'"),
        (["assets", "verify", "minilm"], r"unknown asset 'minilm'"),
        (["check", "moebrt"], r"did you mean 'moebert'"),
        (["new-method", "Not A Name"], r"Not A Name"),
    ],
)
def test_bad_input_is_one_clear_line_exit_code_2_and_nothing_written(
    moebench, tiny_matrix, tmp_path, monkeypatch, words, message
):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    words = [word.format(matrix=tiny_matrix, tmp=tmp_path) for word in words]
    code, stdout, stderr = moebench(*words)
    assert code == 2, stdout + stderr
    assert re.search(message, stderr), stderr
    assert "Traceback" not in stderr
    added = [path for path in sorted(tmp_path.rglob("*")) if path not in before and "cache" not in path.parts]
    assert added == []


@pytest.fixture
def spoiled(tiny_checkpoint, tmp_path):
    """Copies of the checkpoint, each with something wrong."""

    def spoil(how: str) -> Path:
        folder = tmp_path / "spoiled"
        shutil.copytree(tiny_checkpoint, folder)
        weights, config = folder / "model.safetensors", folder / "config.json"
        if how == "not a BERT":
            config.write_text(json.dumps(json.loads(config.read_text()) | {"model_type": "gpt2"}))
        elif how == "truncated":
            weights.write_bytes(weights.read_bytes()[:-100])
        elif how == "pickle":
            weights.rename(folder / "pytorch_model.bin")
        elif how == "tokenizer":
            tokenizer = json.loads((folder / "tokenizer.json").read_text())
            tokenizer["model"]["vocab"]["extra"] = len(tokenizer["model"]["vocab"])
            (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
        return folder

    return spoil


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("not a BERT", "gpt2"),
        ("truncated", "truncated|incomplete|whole"),
        ("pickle", r"\.bin|pickle"),
        ("tokenizer", "tokenizer"),
    ],
)
def test_a_bad_teacher_folder_is_refused(moebench, tiny_matrix, tmp_path, spoiled, how, message):
    code, _, stderr = moebench("run", tiny_matrix, "--teacher", spoiled(how), "--out", tmp_path / "run")
    assert code == 2
    assert re.search(message, stderr), stderr
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"sentence": "good film", "label": 7}', r"label"),
        ('{"sentence": "good film"}', r"label"),
        ('{"text": "good film", "label": 1}', r"sentence"),
    ],
)
def test_bad_rows_are_refused_with_file_and_row(moebench, tiny_matrix, tiny_task, tmp_path, line, message):
    folder = tmp_path / "task"
    shutil.copytree(tiny_task.parent, folder)
    train = folder / "train.jsonl"
    train.write_text(train.read_text() + line + "\n")
    code, _, stderr = moebench("run", tiny_matrix, "--task", folder / "tiny.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert re.search(message, stderr), stderr
    assert "train.jsonl" in stderr
    assert not (tmp_path / "run").exists()


def test_a_task_without_training_rows_is_refused(moebench, tiny_matrix, tiny_task, tmp_path):
    folder = tmp_path / "task"
    shutil.copytree(tiny_task.parent, folder)
    (folder / "train.jsonl").write_text("")
    code, _, stderr = moebench("run", tiny_matrix, "--task", folder / "tiny.yaml", "--out", tmp_path / "run")
    assert code == 2
    assert "train" in stderr


def test_an_output_folder_that_cannot_be_written_is_named(moebench, tiny_matrix, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, _, stderr = moebench("run", tiny_matrix, "--out", tmp_path / "file" / "run")
    assert code == 2
    assert "file" in stderr
    assert "Traceback" not in stderr


def test_a_run_folder_of_a_newer_schema_is_refused(moebench, tiny_matrix, tmp_path):
    out = tmp_path / "run"
    assert moebench("run", tiny_matrix, "--out", out, "--no-report")[0] == 0
    file = next((out / "records").iterdir())
    file.write_text(json.dumps(json.loads(file.read_text()) | {"schema_version": 99}))
    for words in (["run", tiny_matrix, "--out", out], ["report", out], ["ls", "cells", out]):
        code, _, stderr = moebench(*words)
        assert code == 2
        assert "schema 99" in stderr


def test_cp_copies_a_preset_once(moebench, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert moebench("cp", "quickstart")[0] == 0
    assert yaml.safe_load((tmp_path / "quickstart.yaml").read_text())["name"] == "quickstart"
    code, _, stderr = moebench("cp", "quickstart")
    assert code == 2
    assert "there already" in stderr


def test_runtimes_are_listed_with_where_they_can_be_used(moebench):
    code, stdout, _ = moebench("ls", "runtimes")
    assert code == 0
    lines = {line.split()[0]: line for line in stdout.splitlines() if line.strip()}
    assert "cpu" in lines["eager"]
    assert "launched at once as a CUDA graph" in lines["cuda-graph"]


def test_doctor_says_what_is_here(moebench):
    code, stdout, _ = moebench("doctor")
    assert code == 0
    assert "runtime eager: cpu" in stdout
    assert "torch" in stdout
    assert "finetune" in stdout


@pytest.mark.parametrize("what", ["methods", "tasks", "presets"])
def test_listing_starts_fast_because_heavy_packages_stay_out(what, cache):
    """The time itself is measured by benchmarks/start_up.py; here only what decides it."""
    code = (
        "import sys; from bench import cli; sys.argv = ['moebench', 'ls', sys.argv[1]]\n"
        "try: cli.main()\n"
        "except SystemExit as stopped: assert not stopped.code\n"
        "heavy = {'torch', 'transformers', 'pandas', 'evaluate', 'datasets', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code, what], check=True, capture_output=True, timeout=120)


def records_of(out: Path) -> dict[str, bytes]:
    folder = out / "records"
    return {file.name: file.read_bytes() for file in folder.glob("*.json")} if folder.is_dir() else {}


# All that a run imports: a start of Python that loads it costs more than the cells do.
OF_A_RUN = (
    "bench.cli",
    "bench.run",
    "bench.cell",
    "reports",
    "datasets",
    "transformers.models.bert.modeling_bert",
)


@pytest.mark.timeout(600)
def test_a_run_killed_at_any_moment_loses_and_repeats_no_finished_cell(tiny_matrix, tmp_path):
    """Kill the process group with SIGKILL once 0, 1, 2, … records are there, then let the run finish."""
    out = tmp_path / "run"
    file = edited(tiny_matrix, methods=["finetune[layers=2]", "distilbert", "finetune[layers=1]"])
    words = ("run", str(file), "--out", str(out))
    survivors: dict[str, bytes] = {}
    with Preloaded(OF_A_RUN, tmp_path) as python:
        for wanted in range(4):
            process = python.start(*words, module="bench.cli")
            while python.running() and len(records_of(out)) < wanted:
                time.sleep(0.005)
            if wanted == 0:
                while python.running() and not (out / "matrix.yaml").exists():
                    time.sleep(0.005)
            assert python.running(), "the run ended before it could be killed"
            os.killpg(process, signal.SIGKILL)
            assert python.wait() == -signal.SIGKILL
            found = records_of(out)
            assert survivors.items() <= found.items()
            survivors = found
        python.start(*words, module="bench.cli")
        assert python.wait() == 0, python.output()[1]
    assert survivors.items() <= records_of(out).items()
    folder = RunFolder(out)
    assert {record.status for record in folder.records() if isinstance(record, CellRecord)} == {"done"}
    assert len(folder.records()) == 4
    assert not (out / "corrupt").exists()
