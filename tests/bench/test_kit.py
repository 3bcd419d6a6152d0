"""A kit runs where nothing else is: no network, no teacher, no rows; a damaged one leaves nothing."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
from pathlib import Path

import pandas as pd
import pytest
import yaml
from safetensors import safe_open

from bench.errors import UserError
from bench.kit import MANIFEST, SCHEMA, pack, unpack
from bench.matrix import load_matrix
from bench.run import run
from bench.selection import Part
from bench.survey import Survey
from results.store import RunFolder

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def kit(tiny_matrix: Path, tmp_path: Path) -> Path:
    """Return a kit of the tiny matrix."""
    out = tmp_path / "kit.tar"
    assert pack(load_matrix(str(tiny_matrix)), out) == out.stat().st_size
    return out


def elsewhere(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Go to a machine whose cache is empty."""
    monkeypatch.setenv("MOEBENCH_CACHE", str(folder))


def rewritten(kit: Path, change) -> Path:
    """Write the kit again with its members (name -> content) changed."""
    with tarfile.open(kit) as archive:
        members = {member.name: archive.extractfile(member).read() for member in archive}
    change(members)
    with tarfile.open(kit, "w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return kit


def test_a_kit_makes_the_same_cells_where_neither_teacher_nor_rows_are(
    tiny_matrix, tiny_checkpoint, tiny_task, tmp_path, monkeypatch
):
    at_home = Survey(load_matrix(str(tiny_matrix)), RunFolder(tmp_path / "home")).teachers()
    matrix = yaml.safe_load(tiny_matrix.read_text())
    for key, folder in (("teacher", tiny_checkpoint), ("tasks", tiny_task.parent)):
        shutil.copytree(folder, tmp_path / key)
        matrix[key] = str(tmp_path / key) if key == "teacher" else [str(tmp_path / key / tiny_task.name)]
    tiny_matrix.write_text(yaml.safe_dump(matrix))
    pack(load_matrix(str(tiny_matrix)), tmp_path / "kit.tar")
    for gone in ("teacher", "tasks"):
        shutil.rmtree(tmp_path / gone)
    tiny_matrix.unlink()
    elsewhere(monkeypatch, tmp_path / "other machine")
    outcome = run(load_matrix(str(unpack(tmp_path / "kit.tar"))), tmp_path / "run")
    assert outcome.cells == {"done": 2}
    made = {record.id for record in RunFolder(tmp_path / "run").records()}
    assert {cell.job.cell_id for cell in at_home} <= made


def test_rows_of_a_data_folder_come_along_and_other_files_of_it_do_not(
    tiny_matrix, long_checkpoint, tmp_path
):
    folder = tmp_path / "data" / "glue" / "rte"
    folder.mkdir(parents=True)
    rows = pd.DataFrame(
        {"sentence1": ["good film"] * 4, "sentence2": ["bad plot"] * 4, "label": [0, 1, 0, 1]}
    )
    for name in ("train", "validation", "train-constructed"):
        rows.assign(idx=range(4)).to_parquet(folder / f"{name}.parquet")
    overrides = {"tasks": ["rte"], "data": str(tmp_path / "data"), "teacher": str(long_checkpoint)}
    pack(load_matrix(str(tiny_matrix), overrides), tmp_path / "kit.tar")
    placed = unpack(tmp_path / "kit.tar")
    data = Path(yaml.safe_load(placed.read_text())["data"])
    assert sorted(file.relative_to(data).as_posix() for file in data.rglob("*.parquet")) == [
        "glue/rte/train.parquet",
        "glue/rte/validation.parquet",
    ]
    assert (
        Survey(load_matrix(str(placed)), RunFolder(tmp_path / "run")).rows["rte"].splits["train"].num_rows
        == 4
    )


def test_a_kit_for_some_cells_needs_no_rows_of_other_tasks(tiny_matrix, long_checkpoint, tmp_path):
    rows = pd.DataFrame({"sentence1": ["good"] * 4, "sentence2": ["bad"] * 4, "label": [0, 1] * 2})
    for name in ("rte", "cola"):
        folder = tmp_path / "data" / "glue" / name
        folder.mkdir(parents=True)
        for split in ("train", "validation"):
            rows.assign(idx=range(4)).to_parquet(folder / f"{split}.parquet")
    overrides = {
        "tasks": ["mrpc", "rte", "cola"],
        "tuning": {"tasks": {"classification": "rte", "cola": "cola"}},
        "data": str(tmp_path / "data"),
        "teacher": str(long_checkpoint),
    }
    matrix = load_matrix(str(tiny_matrix), overrides)
    with pytest.raises(UserError, match="mrpc"):
        pack(matrix, tmp_path / "whole.tar")
    pack(matrix, tmp_path / "kit.tar", only=[Part("rte")])
    packed = load_matrix(str(unpack(tmp_path / "kit.tar")))
    assert [choice.name for choice in packed.tasks] == ["mrpc", "rte", "cola"]
    assert [folder.name for folder in Path(str(packed.data), "glue").iterdir()] == ["rte"]


def test_a_teacher_in_half_precision_is_half_as_large(tiny_matrix, kit, tmp_path):
    pack(load_matrix(str(tiny_matrix)), tmp_path / "half.tar", half=True)
    sizes = []
    for file in (kit, tmp_path / "half.tar"):
        teacher = Path(yaml.safe_load(unpack(file).read_text())["teacher"])
        with safe_open(teacher / "model.safetensors", "pt") as weights:
            sizes.append({weights.get_slice(name).get_dtype() for name in weights.keys()})  # noqa: SIM118
    assert sizes == [{"F32"}, {"F16"}]


def test_a_compressed_kit_unpacks_to_the_same_files(tiny_matrix, kit, tmp_path, monkeypatch):
    assert pack(load_matrix(str(tiny_matrix)), tmp_path / "kit.tar.xz") < kit.stat().st_size
    assert unpack(tmp_path / "kit.tar.xz") == unpack(kit)  # named by what is in them
    elsewhere(monkeypatch, tmp_path / "other machine")
    content = (tmp_path / "kit.tar.xz").read_bytes()
    (tmp_path / "kit.tar.xz").write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="not readable as a kit"):
        unpack(tmp_path / "kit.tar.xz")


def test_wheels_are_packed_as_they_are_and_never_opened(tiny_matrix, tmp_path):
    (tmp_path / "wheels").mkdir()
    (tmp_path / "wheels" / "some-1.0-py3-none-any.whl").write_bytes(b"no archive at all")
    pack(load_matrix(str(tiny_matrix)), tmp_path / "kit.tar", wheels=tmp_path / "wheels")
    with tarfile.open(tmp_path / "kit.tar") as archive:
        assert "wheels/some-1.0-py3-none-any.whl" in archive.getnames()


def test_unpacking_again_keeps_what_is_whole_and_mends_what_is_not(kit):
    placed = unpack(kit)
    weights = placed.with_suffix("") / "teacher" / "model.safetensors"
    inode = weights.stat().st_ino
    assert unpack(kit) == placed
    assert weights.stat().st_ino == inode
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + b"x")
    unpack(kit)
    assert weights.read_bytes() == content


def damage(members: dict[str, bytes]) -> None:
    members["teacher/model.safetensors"] = members["teacher/model.safetensors"][:-1] + b"x"


def cut_off(members: dict[str, bytes]) -> None:
    del members["teacher/config.json"]


def add(members: dict[str, bytes]) -> None:
    members["teacher/more.py"] = b"print()"


def escape(members: dict[str, bytes]) -> None:
    manifest = json.loads(members[MANIFEST])
    manifest["files"]["../outside"] = "0"
    members[MANIFEST] = json.dumps(manifest).encode()


def newer(members: dict[str, bytes]) -> None:
    members[MANIFEST] = json.dumps(json.loads(members[MANIFEST]) | {"schema": SCHEMA + 1}).encode()


def nameless(members: dict[str, bytes]) -> None:
    del members[MANIFEST]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (damage, r"teacher/model\.safetensors is damaged"),
        (cut_off, r"cut off, teacher/config\.json not there"),
        (add, r"teacher/more\.py is not a file that its kit\.json names"),
        (escape, r"'\.\./outside', which would lie outside"),
        (newer, r"this version reads 1; update"),
        (nameless, r"no kit; `moebench kit MATRIX"),
    ],
)
def test_a_bad_kit_is_refused_and_leaves_nothing(kit, cache, change, message):
    with pytest.raises(UserError, match=message):
        unpack(rewritten(kit, change))
    assert [path for path in cache.rglob("*") if path.is_file() and "kits" in path.parts] == []


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "kit.tar").write_text("hello")
    with pytest.raises(UserError, match="not readable as a kit"):
        unpack(tmp_path / "kit.tar")


def test_an_existing_file_and_a_matrix_that_cannot_run_are_refused(tiny_matrix, kit, tmp_path):
    with pytest.raises(UserError, match="there already"):
        pack(load_matrix(str(tiny_matrix)), kit)
    with pytest.raises(UserError, match="nowhere"):
        pack(load_matrix(str(tiny_matrix), {"teacher": "./nowhere"}), tmp_path / "new.tar")
    assert not (tmp_path / "new.tar").exists()
