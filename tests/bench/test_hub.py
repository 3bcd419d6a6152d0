from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hub_stand_in import serve

from bench import hub
from bench.errors import UserError
from bench.sources import load_rows
from bench.tasks.glue import MRPC, REVISION

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def run(program: str, home: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a program with a hub cache of its own; the hub's client reads the environment when it is imported."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "MOEBENCH_"))}
    return subprocess.run(
        [sys.executable, "-c", program],
        env=kept | {"HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


LOAD = """
from bench.errors import UserError
from bench.sources import load_rows
from bench.tasks.glue import MRPC
try:
    rows = load_rows(MRPC)
    print(rows.origin, rows.fingerprint, {role: len(split) for role, split in rows.splits.items()})
except UserError as error:
    print("refused:", error)
"""


def write_mrpc(folder: Path) -> None:
    folder.mkdir(parents=True)
    for split, count in (("train", 6), ("validation", 4), ("test", 2)):
        table = pa.table(
            {
                "sentence1": [f"{split} {number}" for number in range(count)],
                "sentence2": ["the same"] * count,
                "label": pa.array([number % 2 for number in range(count)]),
                "idx": pa.array(range(count), pa.int32()),
            }
        )
        pq.write_table(table, folder / f"{split}-00000-of-00001.parquet")


def test_rows_come_from_the_pinned_commit_once_and_equal_those_of_a_directory(tmp_path: Path) -> None:
    write_mrpc(tmp_path / "hub/datasets/nyu-mll/glue" / REVISION / "mrpc")
    home = tmp_path / "home"
    with serve(tmp_path / "hub") as (address, asked):
        first = run(LOAD, home, HF_ENDPOINT=address)
        assert first.stdout.startswith(f"hub nyu-mll/glue@{REVISION} "), first.stdout + first.stderr
        assert "{'train': 6, 'validation': 4}" in first.stdout
        fetched = {path.rpartition("/")[2] for path in asked if "/resolve/" in path}
        assert fetched == {"train-00000-of-00001.parquet", "validation-00000-of-00001.parquet"}
        assert all(REVISION in path for path in asked)
    fetch = (
        f"from bench import hub; print(hub.fetch('nyu-mll/glue', '{REVISION}', ['mrpc/train-*'], 'dataset'))"
    )
    again = run(fetch, home, HF_ENDPOINT=address)  # nobody is there any more
    assert again.stdout.strip() == str(home / "hub/datasets--nyu-mll--glue/snapshots" / REVISION), (
        again.stderr
    )
    shutil.copytree(tmp_path / "hub/datasets/nyu-mll/glue" / REVISION / "mrpc", tmp_path / "data/glue/mrpc")
    assert load_rows(MRPC, data=tmp_path / "data").fingerprint == first.stdout.split()[2]


def test_offline_the_error_says_where_to_put_the_rows(tmp_path: Path) -> None:
    said = run(LOAD, tmp_path, HF_HUB_OFFLINE="1").stdout
    assert (
        f"refused: dataset nyu-mll/glue@{REVISION} is not in the hub's cache and HF_HUB_OFFLINE forbids"
        in said
    )
    assert "put the rows into DATA/glue/mrpc/train.parquet and set MOEBENCH_DATA=DATA" in said


def test_a_hub_out_of_reach_is_given_up_at_once(tmp_path: Path) -> None:
    started = time.monotonic()
    said = run(LOAD, tmp_path, HF_ENDPOINT="http://127.0.0.1:9").stdout
    assert "cannot fetch dataset nyu-mll/glue@" in said
    assert "from http://127.0.0.1:9: " in said
    assert time.monotonic() - started < 20, "the hub's own retries take 23 s beside the imports"


def test_a_commit_that_is_not_there_is_named(tmp_path: Path) -> None:
    program = f"from bench import hub\nhub.fetch('owner/name', '{COMMIT}', ['*'], 'model')"
    with serve(tmp_path) as (address, _):
        said = run(program, tmp_path / "home", HF_ENDPOINT=address).stderr
    assert f"UserError: cannot fetch model owner/name@{COMMIT} from {address}: " in said


def test_only_named_files_of_a_model_are_fetched(tmp_path: Path) -> None:
    folder = tmp_path / "hub/models/owner/name" / COMMIT
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors", "pytorch_model.bin", "run_me.py", "onnx.onnx"):
        (folder / name).write_text(name)
    program = (
        "from bench import hub\nfrom bench.checkpoints import HUB_FILES\n"
        f"print(*sorted(p.name for p in hub.fetch('owner/name', '{COMMIT}', HUB_FILES, 'model').iterdir()))"
    )
    with serve(tmp_path / "hub") as (address, _):
        done = run(program, tmp_path / "home", HF_ENDPOINT=address)
    assert done.stdout.split() == ["config.json", "model.safetensors"], done.stderr


@pytest.mark.parametrize("revision", [None, "main", "v1.0", COMMIT[:7], COMMIT.upper()])
def test_a_revision_that_may_move_is_refused(revision: str | None) -> None:
    with pytest.raises(UserError, match="may move; pin the commit, 40 hex digits"):
        hub.require_commit("teacher 'bert'", revision)


def test_a_commit_is_a_revision() -> None:
    assert hub.require_commit("teacher 'bert'", COMMIT) == COMMIT
