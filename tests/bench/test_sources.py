from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from bench.errors import UserError
from bench.sources import load_rows, sample, split_files
from bench.tasks import catalog, glue, squad
from bench.tasks.glue import MNLI, MRPC, STSB
from bench.tasks.squad import SQUAD_V2
from bench.tasks.task import Source

REAL = os.environ.get("MOEBENCH_DATA")
real_data = pytest.mark.skipif(not REAL, reason="MOEBENCH_DATA names no folder with GLUE and SQuAD")


def write_split(file: Path, count: int, *, first: int = 0, **changes: Any) -> None:
    numbers = range(first, first + count)
    columns: dict[str, Any] = {
        "sentence1": [f"sentence {number}" for number in numbers],
        "sentence2": [f"other {number}" for number in numbers],
        "label": [number % 2 for number in numbers],
        "idx": pa.array(numbers, pa.int32()),
        "source": ["made"] * count,
    }
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns | changes), file)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder with MRPC, whole, in the hub's layout."""
    write_split(tmp_path / "data/glue/mrpc/train.parquet", 20)
    write_split(tmp_path / "data/glue/mrpc/validation.parquet", 8, first=100)
    return tmp_path / "data"


@pytest.fixture(autouse=True)
def _no_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MOEBENCH_DATA", raising=False)


def test_a_directory_gives_the_task_s_columns_alone(data: Path) -> None:
    rows = load_rows(MRPC, data=data)
    assert {role: len(split) for role, split in rows.splits.items()} == {"train": 20, "validation": 8}
    assert rows.splits["validation"].column_names == ["sentence1", "sentence2", "label", "idx"]
    assert rows.splits["validation"][1] == {
        "sentence1": "sentence 101",
        "sentence2": "other 101",
        "label": 1,
        "idx": "101",
    }
    assert rows.origin == str(data / "glue/mrpc")


def test_the_environment_names_the_data_folder(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOEBENCH_DATA", str(data))
    assert load_rows(MRPC).fingerprint == load_rows(MRPC, data=data).fingerprint


def test_shards_of_the_hub_are_joined_in_order(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "shards/glue/mrpc"
    write_split(folder / "train-00000-of-00002.parquet", 12)
    write_split(folder / "train-00001-of-00002.parquet", 8, first=12)
    write_split(folder / "validation-00000-of-00001.parquet", 8, first=100)
    assert load_rows(MRPC, data=tmp_path / "shards").fingerprint == load_rows(MRPC, data=data).fingerprint
    (folder / "train-00000-of-00002.parquet").unlink()
    with pytest.raises(UserError, match=r"glue/mrpc: 1 of 2 shards of train are there"):
        load_rows(MRPC, data=tmp_path / "shards")


def test_a_bad_row_of_a_shard_is_named_by_its_own_file(tmp_path: Path) -> None:
    folder = tmp_path / "glue/mrpc"
    write_split(folder / "train-00000-of-00002.parquet", 12)
    write_split(folder / "train-00001-of-00002.parquet", 3, label=[0, 1, 2])
    write_split(folder / "validation.parquet", 8)
    with pytest.raises(UserError, match=r"train-00001-of-00002\.parquet, row 3: column 'label' is '2'"):
        load_rows(MRPC.model_copy(update={"id": None}), data=tmp_path)


def test_a_file_of_another_name_is_used_only_where_it_is_named(data: Path) -> None:
    folder = data / "glue/mrpc"
    (folder / "train.parquet").rename(folder / "train-part.parquet")
    write_split(folder / "train-altered.parquet", 3)
    with pytest.raises(
        UserError, match=r"no train\.parquet with the train rows; there: .*'mrpc\[train=train-part\]'"
    ):
        load_rows(MRPC, data=data)
    task = catalog.find("mrpc", {"train": "train-part"})
    assert len(load_rows(task, data=data).splits["train"]) == 20


def test_a_split_may_lie_beside_another_configuration(data: Path) -> None:
    write_split(data / "glue/other/train.parquet", 5)
    (file,) = split_files(data / "glue/mrpc", "other:train")
    assert file == data / "glue/other/train.parquet"
    task = catalog.find("mrpc", {"train": "other:train"})
    assert len(load_rows(task, data=data).splits["train"]) == 5


def test_rows_for_submission_are_loaded_by_role_without_labels(data: Path) -> None:
    write_split(data / "glue/mrpc/test.parquet", 4, label=[-1] * 4)
    rows = load_rows(MRPC, data=data, roles=["test"])
    assert rows.splits["test"].column_names == ["sentence1", "sentence2", "idx"]
    assert "test" not in load_rows(MRPC, data=data).splits
    with pytest.raises(UserError, match=r"task 'mrpc': unknown split 'tests'; did you mean 'test'\?"):
        load_rows(MRPC, data=data, roles=["tests"])


def test_the_fingerprint_is_the_same_in_another_process_and_another_file_format(
    data: Path, tmp_path: Path
) -> None:
    program = (
        "from pathlib import Path\n"
        "from bench.sources import load_rows\n"
        "from bench.tasks.glue import MRPC\n"
        f"print(load_rows(MRPC, data=Path({str(data)!r})).fingerprint)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7"}
    other = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()
    for split in ("train", "validation"):
        pq.read_table(data / f"glue/mrpc/{split}.parquet").to_pandas().to_csv(
            tmp_path / f"{split}.csv", index=False
        )
    own = MRPC.model_copy(
        update={
            "source": Source(kind="directory", path=str(tmp_path)),
            "directory": None,
            "splits": {"train": "train.csv", "validation": "validation.csv"},
        }
    )
    assert load_rows(own).fingerprint == other == load_rows(MRPC, data=data).fingerprint


def test_the_fingerprint_follows_the_rows_and_the_limit(data: Path) -> None:
    whole = load_rows(MRPC, data=data).fingerprint
    assert load_rows(MRPC, data=data, limit=20).fingerprint == whole
    assert load_rows(MRPC, data=data, limit=10).fingerprint != whole
    write_split(data / "glue/mrpc/train.parquet", 20, source=["changed"] * 20)
    assert load_rows(MRPC, data=data).fingerprint == whole, "a column that is not used changed it"
    write_split(data / "glue/mrpc/train.parquet", 20, label=[0] * 19 + [1])
    assert load_rows(MRPC, data=data).fingerprint != whole


def test_a_limit_takes_the_same_rows_always_and_mixes_sorted_classes(data: Path) -> None:
    labels = [0] * 500 + [1] * 500
    write_split(data / "glue/mrpc/train.parquet", 1000, label=labels)
    small, large = (load_rows(MRPC, data=data, limit=limit).splits["train"] for limit in (64, 128))
    assert len(small) == 64
    assert 20 < sum(small["label"]) < 44
    assert set(small["idx"]) < set(large["idx"])
    numbers = [int(number) for number in large["idx"]]
    assert numbers == sorted(numbers), "the order of the rows is kept"
    assert len(load_rows(MRPC, data=data, limit=64).splits["validation"]) == 8


def splitmix64(state: int) -> int:
    """The published generator's output for a state, in plain integers."""
    whole = 2**64 - 1
    mixed = state * 0x9E3779B97F4A7C15 & whole
    mixed = (mixed ^ mixed >> 30) * 0xBF58476D1CE4E5B9 & whole
    mixed = (mixed ^ mixed >> 27) * 0x94D049BB133111EB & whole
    return mixed ^ mixed >> 31


def test_the_rows_that_a_limit_takes_never_move() -> None:
    assert splitmix64(1) == 0xE220A8397B1DCDAF  # first output of the reference implementation at seed 0
    slow = sorted(sorted(range(1000), key=lambda row: splitmix64(row + 1))[:8])
    assert sample(1000, 8).tolist() == slow
    assert sample(10, 10).tolist() == list(range(10))
    counts = np.histogram(sample(100_000, 10_000), bins=10, range=(0, 100_000))[0]
    assert counts.min() > 900, "every part of the file is drawn from"


def test_a_task_without_training_rows_is_refused(data: Path) -> None:
    write_split(data / "glue/mrpc/train.parquet", 0)
    with pytest.raises(UserError, match=r"task 'mrpc' has no train rows: .*train\.parquet is empty"):
        load_rows(MRPC, data=data)
    no_training = MRPC.model_copy(update={"splits": {"validation": "validation"}})
    with pytest.raises(UserError, match="task 'mrpc' has no training rows; its splits: validation"):
        load_rows(no_training, data=data)


def test_training_on_the_rows_that_are_scored_is_refused(data: Path) -> None:
    with pytest.raises(UserError, match="task 'mrpc': train and validation are the same rows, 'validation'"):
        load_rows(catalog.find("mrpc", {"train": "validation"}), data=data)


def test_a_file_whose_name_is_misspelt_gets_a_suggestion(data: Path) -> None:
    with pytest.raises(UserError, match=r"'mrpc\[validation=validation\]'"):
        load_rows(catalog.find("mrpc", {"validation": "validtion"}), data=data)


def test_a_data_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"data folder .*nowhere: no such folder"):
        load_rows(MRPC, data=tmp_path / "nowhere")


def test_a_task_from_a_directory_needs_a_data_folder(tmp_path: Path) -> None:
    task = MRPC.model_copy(update={"source": Source(kind="directory", path="own/rows"), "directory": None})
    with pytest.raises(
        UserError, match=r"task 'mrpc' needs a data folder with own/rows: set `data:` or MOEBENCH_DATA"
    ):
        load_rows(task)
    with pytest.raises(UserError, match=r"task 'mrpc': no folder .*own/rows"):
        load_rows(task, data=tmp_path)


def test_an_unknown_embedded_corpus_is_named() -> None:
    task = MRPC.model_copy(update={"source": Source(kind="embedded", path="rotten-tomato")})
    with pytest.raises(
        UserError, match=r"task 'mrpc': unknown embedded corpus 'rotten-tomato'; did you mean 'rotten-"
    ):
        load_rows(task)


@real_data
@pytest.mark.parametrize("name", ["cola", "sst2", "mrpc", "stsb", "rte", "wnli", "squad-v1.1"])
def test_whole_official_splits_have_their_official_sizes(name: str) -> None:
    rows = load_rows(catalog.find(name), data=Path(str(REAL)))
    official = (glue.OFFICIAL_ROWS | squad.OFFICIAL_ROWS)[name]
    assert {role: len(split) for role, split in rows.splits.items()} == {
        role: official[role] for role in rows.splits
    }


@real_data
@pytest.mark.parametrize(
    ("name", "options", "sizes"),
    [
        ("qqp", {"train": "train-part", "validation": "validation-part"}, [25378, 7600]),
        ("qnli", {"train": "train-part"}, [2000, 5463]),
        (
            "mnli",
            {"train": "train-part", "validation_mismatched": "validation_mismatched-part"},
            [15890, 9815, 999],
        ),
        ("ax", {"train": "train-part"}, [15890, 9815]),
    ],
)
def test_parts_are_loaded_by_name(name: str, options: dict[str, str], sizes: list[int]) -> None:
    data = Path(str(REAL))
    with pytest.raises(UserError, match=r"no (train|validation_mismatched)\.parquet"):
        load_rows(catalog.find(name), data=data)
    task = catalog.find(name, options)
    assert [len(split) for split in load_rows(task, data=data).splits.values()] == sizes
    assert all(f"{key}={value}" in task.notes for key, value in options.items())


@real_data
def test_real_scores_of_stsb_are_zero_to_five() -> None:
    labels = np.array(load_rows(STSB, data=Path(str(REAL))).splits["train"]["label"])
    assert (labels.min(), labels.max()) == (0, 5)


@real_data
def test_real_labels_of_mnli_are_named_in_the_order_of_their_codes() -> None:
    task = catalog.find(
        "mnli", {"train": "train-part", "validation_mismatched": "validation_mismatched-part"}
    )
    labels = np.array(load_rows(task, data=Path(str(REAL))).splits["validation"]["label"])
    assert dict(zip(MNLI.labels, np.bincount(labels).tolist(), strict=True)) == {
        "entailment": 3479,
        "neutral": 3123,
        "contradiction": 3213,
    }


@real_data
def test_real_answers_of_squad_are_cut_from_their_context() -> None:
    split = load_rows(SQUAD_V2, data=Path(str(REAL)), roles=("validation",)).splits["validation"]
    assert len(split) == 11873
    unanswerable = 0
    for context, answers in zip(split["context"], split["answers"], strict=True):
        unanswerable += not answers["text"]
        for text, start in zip(answers["text"], answers["answer_start"], strict=True):
            assert context[start : start + len(text)] == text
    assert unanswerable == 5945
