from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from huggingface_hub import constants

from bench import registry
from bench.errors import UserError
from bench.tasks import catalog
from bench.tasks.glue import MNLI, QQP, REVISION
from bench.tasks.reviews import ROTTEN_TOMATOES

OURS = {
    *("rotten-tomatoes", "cola", "sst2", "mrpc", "stsb", "qqp", "mnli", "qnli", "rte", "wnli", "ax"),
    *("squad-v1.1", "squad-v2.0"),
}


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOEBENCH_DATA", raising=False)


def test_every_task_is_registered_under_its_own_name() -> None:
    assert set(catalog.names()) >= OURS
    assert all(catalog.find(name).name == name for name in OURS)


def test_an_unknown_task_gets_a_suggestion() -> None:
    with pytest.raises(UserError, match=r"unknown task 'sst-2'; did you mean 'sst2'\? known: .*mnli"):
        catalog.find("sst-2")


def test_an_entry_point_that_is_no_task_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry.tasks, "get", lambda name: {"name": name})
    with pytest.raises(UserError, match="task 'odd': its entry point is no Task but a dict"):
        catalog.find("odd")


def test_options_name_other_files_and_the_notes_say_so() -> None:
    task = catalog.find("qqp", {"train": "train-part", "validation": "validation-part"})
    assert task.splits == {"train": "train-part", "validation": "validation-part", "test": "test"}
    assert task.notes.startswith("with train=train-part, validation=validation-part; ")
    assert task.notes.endswith(QQP.notes)
    assert task.name == "qqp"
    assert catalog.find("qqp") == QQP, "the registered task is left as it is"


def test_max_length_is_an_option() -> None:
    task = catalog.find("mnli", {"max_length": "64", "validation_mismatched": "other"})
    assert (task.max_length, task.splits["validation_mismatched"]) == (64, "other")
    assert MNLI.max_length == 128


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"trian": "x"},
            r"task 'qqp': unknown option 'trian'; did you mean 'train'\? known: max_length, test, train",
        ),
        ({"validation_mismatched": "x"}, "task 'qqp': unknown option 'validation_mismatched'"),
        ({"train": ""}, "task 'qqp': option 'train' is empty"),
        ({"max_length": "many"}, "task 'qqp': max_length is 'many'; possible: 8 to 8192"),
        ({"max_length": "4"}, "task 'qqp': max_length is '4'"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        catalog.find("qqp", options)


def test_availability_is_said_for_every_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert catalog.availability(ROTTEN_TOMATOES) == "embedded"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert catalog.availability(QQP) == "hub"
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    expected = "not here: HF_HUB_OFFLINE is set, and MOEBENCH_DATA names no folder with glue/qqp"
    assert catalog.availability(QQP) == expected
    snapshot = tmp_path / "hub/datasets--nyu-mll--glue/snapshots" / REVISION / "qqp"
    snapshot.mkdir(parents=True)
    (snapshot / "train-00000-of-00001.parquet").touch()
    assert catalog.availability(QQP) == expected
    (snapshot / "validation-00000-of-00001.parquet").touch()
    assert catalog.availability(QQP) == "hub", "what it needs is in the hub's cache"
    (snapshot / "train-00000-of-00001.parquet").unlink()
    monkeypatch.setenv("MOEBENCH_DATA", str(tmp_path))
    assert catalog.availability(QQP) == expected
    folder = tmp_path / "glue/qqp"
    folder.mkdir(parents=True)
    (folder / "train-part.parquet").touch()
    (folder / "validation.parquet").touch()
    assert catalog.availability(QQP) == f"not here: no train in {folder}, which has train-part, validation"
    assert catalog.availability(catalog.find("qqp", {"train": "train-part"})) == "directory"
    (folder / "train.parquet").touch()
    assert catalog.availability(QQP) == "directory"
    monkeypatch.setenv("MOEBENCH_DATA", str(tmp_path / "nowhere"))
    assert catalog.availability(QQP) == f"not here: data folder {tmp_path / 'nowhere'}: no such folder"


def test_listing_tasks_imports_nothing_heavy() -> None:
    program = (
        "import sys\nfrom bench.tasks import catalog\n"
        "found = [catalog.availability(catalog.find(name)) for name in catalog.names()]\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pandas', 'pyarrow', 'numpy', 'evaluate'}\n"
        "print(len(found), *sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    count, *heavy = done.stdout.split()
    assert int(count) >= len(OURS)
    assert heavy == []


def test_a_task_file_is_found_and_takes_options(tiny_task: Path) -> None:
    task = catalog.find(str(tiny_task), {"train": "validation.jsonl"})
    assert (task.name, task.splits["train"]) == ("tiny", "validation.jsonl")
    assert catalog.availability(task) == "directory"
    missing = catalog.find(str(tiny_task), {"train": "none.jsonl"})
    assert catalog.availability(missing).startswith("not here: no train in ")


def test_an_unknown_score_is_refused_before_anything_runs(tiny_task: Path, tmp_path: Path) -> None:
    for file in tiny_task.parent.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("name: tiny", "scores: [acuracy]"))
    with pytest.raises(UserError, match=r"unknown score 'acuracy'; did you mean 'accuracy'\?"):
        catalog.find(str(tmp_path / "tiny.yaml"))


def test_a_task_file_may_not_take_the_name_of_a_registered_task(tiny_task: Path, tmp_path: Path) -> None:
    for file in tiny_task.parent.iterdir():
        (tmp_path / file.name).write_text(file.read_text().replace("name: tiny", "name: sst2"))
    with pytest.raises(
        UserError, match=r"tiny\.yaml: a registered task has the name 'sst2'; write another `name:`"
    ):
        catalog.find(str(tmp_path / "tiny.yaml"))
