"""Everything that a matrix needs in one file, for a machine without a network.

A kit is a plain tar archive: the matrix, the teacher, the rows and, where asked for, wheels. Its first member names
every other with its sha256; nothing of a kit is used before all of it was checked, and nothing in it is run.
"""

from __future__ import annotations

import hashlib
import json
import lzma
import shutil
import tarfile
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

import yaml

from bench import assets, checkpoints
from bench.errors import UserError
from bench.matrix import Choice, Matrix
from bench.plans import cells, find_task, tuned_on
from bench.selection import Part, select
from bench.sources import role_files, task_folder
from bench.tasks.catalog import TASK_FILES
from bench.tasks.task import Task
from results.store import copy_tries, whole_folder

SCHEMA = 1
MANIFEST = "kit.json"
MATRIX = "matrix.yaml"
TRIES = "tries"
HERE = "{kit}"  # in the packed matrix: the folder that the kit is unpacked to
CHUNK = 1 << 20


def pack(
    matrix: Matrix,
    out: Path,
    *,
    half: bool = False,
    wheels: Path | None = None,
    only: Sequence[Part] = (),
    tries: Path | None = None,
) -> int:
    """Write a kit, whole or not at all.

    Args:
        matrix: What is to be run.
        out: A new file; one that ends in ``.xz`` is compressed.
        half: Keep the teacher in fp16: half as large, and another teacher than the fp32 one as far as records go.
        wheels: Folder of wheels to pack too.
        only: The cells that will be made: rows of no other tasks are packed. None means all.
        tries: Run folder whose tries are packed, so that they are not made again.

    Returns:
        Its bytes.

    Raises:
        UserError: Where the matrix, the teacher or the rows cannot be had, or the file is there already.
    """
    if out.exists():
        raise UserError(f"{out}: there already; name another file")
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as temporary:
        folder = Path(temporary, "kit")
        folder.mkdir()
        _add_teacher(checkpoints.resolve(matrix.teacher).folder, folder / "teacher", half)
        document = matrix.model_dump(mode="json") | {"teacher": f"{HERE}/teacher"}
        needed = {plan.task.name for plan in select(cells(matrix), only)}
        needed |= {tuned_on(matrix, find_task(choice)).name for choice in matrix.tasks if _is(choice, needed)}
        chosen = {choice.name: choice for choice in _task_choices(matrix) if _is(choice, needed)}
        names = {name: _add_rows(choice, matrix, folder) for name, choice in chosen.items()}
        _rename_tasks(document, names)
        document["data"] = f"{HERE}/data" if (folder / "data").is_dir() else None
        (folder / MATRIX).write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
        if wheels is not None:
            shutil.copytree(wheels, folder / "wheels")
        if tries is not None:
            copy_tries(tries, folder / TRIES)
        archive = Path(temporary, out.name)
        _write_archive(folder, archive)
        archive.replace(out)
    return out.stat().st_size


def take_tries(placed: Path, run: Path) -> None:
    """Put the tries of an unpacked kit into a run folder.

    Args:
        placed: What ``unpack`` returned.
        run: The run folder.
    """
    packed = placed.with_suffix("") / TRIES
    if packed.is_dir():
        copy_tries(packed, run)


def unpack(file: Path) -> Path:
    """Unpack a kit into the cache, once, and return the file of its matrix.

    Raises:
        UserError: Where it is no kit, is damaged, or was written by a newer version.
    """
    try:
        with tarfile.open(file, "r:xz" if file.suffix == ".xz" else "r:") as archive:
            expected = _read_manifest(archive, file)
            name = hashlib.sha256(json.dumps(expected, sort_keys=True).encode()).hexdigest()[:16]
            folder = assets.cache_folder() / "kits" / name
            if not _is_whole(folder, expected):
                with whole_folder(folder) as temporary:
                    _extract(archive, file, expected, temporary)
    except (tarfile.TarError, EOFError, lzma.LZMAError) as error:
        raise UserError(f"{file}: not readable as a kit: {error}") from error
    for asset in assets.ASSETS.values():
        packed = folder / "assets" / asset.folder.name
        if packed.is_dir() and assets.state_of(asset) != "present":
            with whole_folder(asset.folder) as temporary:
                shutil.copytree(packed, temporary, dirs_exist_ok=True)
    document = yaml.safe_load((folder / MATRIX).read_text(encoding="utf-8"))
    placed = folder.with_suffix(".yaml")
    placed.write_text(yaml.safe_dump(_placed(document, str(folder)), sort_keys=False), encoding="utf-8")
    return placed


def _add_teacher(source: Path, target: Path, half: bool) -> None:
    target.mkdir()
    files = [file for pattern in checkpoints.HUB_FILES for file in sorted(source.glob(pattern))]
    if half:
        from safetensors.torch import load_file, save_file

        weights = {
            name: tensor.half() if tensor.is_floating_point() else tensor
            for file in files
            if file.suffix == ".safetensors"
            for name, tensor in load_file(file).items()
        }
        save_file(weights, target / "model.safetensors", {"format": "pt"})
        files = [file for file in files if ".safetensors" not in file.suffixes]
    for file in files:
        shutil.copyfile(file, target / file.name)


def _task_choices(matrix: Matrix) -> list[Choice]:
    """Return the tasks of a matrix and those that only its tuning names."""
    own = {find_task(choice).name for choice in matrix.tasks}
    tuned_on = matrix.tuning.tasks.values() if matrix.tuning else ()
    return [*matrix.tasks, *(choice for choice in tuned_on if choice.options or choice.name not in own)]


def _is(choice: Choice, names: Collection[str]) -> bool:
    """Say whether a task is one of those; a task file always is, since the matrix cannot be read without it."""
    return find_task(choice).name in names or Path(choice.name).suffix in TASK_FILES


def _add_rows(choice: Choice, matrix: Matrix, folder: Path) -> str:
    """Copy the files of a task; return the name by which the packed matrix calls it."""
    task = find_task(choice)
    data = Path(matrix.data).expanduser() if matrix.data else None
    if task.source.kind == "embedded":
        asset = assets.ASSETS[task.source.path]
        _copy(assets.ensure(asset), folder / "assets" / asset.folder.name)
        return choice.name
    if Path(choice.name).suffix in TASK_FILES:
        return _add_own_task(Path(choice.name), task, folder)
    below = task.source.path if task.source.kind == "directory" else task.directory
    if below is None or Path(below).is_absolute():
        raise UserError(f"task {task.name!r}: only tasks with a folder below a data folder can be packed")
    for role in ("train", *task.evaluation_splits):
        for file in role_files(task, role, task_folder(task, data)):
            _pack_rows(task, file, folder / "data" / Path(below).with_name(file.parent.name) / file.name)
    return choice.name


def _pack_rows(task: Task, file: Path, target: Path) -> None:
    """Write the columns that a task reads in as little space as Parquet takes."""
    import pyarrow.parquet as pq

    rows = pq.ParquetFile(file)
    wanted = {*task.text, task.label, task.id} & set(rows.schema_arrow.names)
    table = rows.read([name for name in rows.schema_arrow.names if name in wanted])
    target.parent.mkdir(parents=True, exist_ok=True)
    one_page = {
        "data_page_size": 1 << 28,
        "dictionary_pagesize_limit": 1 << 28,
    }  # a context serves five questions
    pq.write_table(
        table, target, compression="zstd", compression_level=19, row_group_size=max(1, len(table)), **one_page
    )


def _add_own_task(file: Path, task: Task, folder: Path) -> str:
    """Copy a task file with the files beside it."""
    target = Path("tasks", task.name)
    for name in task.splits.values():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise UserError(f"{file}: {name} does not lie beside it; put it there to have it packed")
        _copy(file.parent / name, folder / target / name)
    _copy(file, folder / target / file.name)
    return f"{HERE}/{(target / file.name).as_posix()}"


def _copy(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, dirs_exist_ok=True)
    else:
        shutil.copyfile(source, target)


def _rename_tasks(document: dict[str, Any], names: Mapping[str, str]) -> None:
    chosen = [*document["tasks"], *(document["tuning"] or {}).get("tasks", {}).values()]
    for choice in chosen:
        choice["name"] = names.get(choice["name"], choice["name"])


def _write_archive(folder: Path, archive: Path) -> None:
    files = {file.relative_to(folder).as_posix(): file for file in folder.rglob("*") if file.is_file()}
    manifest = {"schema": SCHEMA, "files": {name: _sha256(files[name]) for name in sorted(files)}}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1), encoding="utf-8")
    compressed: dict[str, Any] = {"mode": "w:xz", "preset": 3} if archive.suffix == ".xz" else {"mode": "w"}
    with tarfile.open(archive, **compressed) as tar:
        for name in (MANIFEST, *sorted(files)):
            tar.add(folder / name, name, recursive=False)


def _read_manifest(archive: tarfile.TarFile, file: Path) -> dict[str, str]:
    first = archive.next()
    content = archive.extractfile(first) if first is not None and first.name == MANIFEST else None
    if content is None:
        raise UserError(f"{file}: no kit; `moebench kit MATRIX --out {file.name}` writes one")
    try:
        manifest = json.load(content)
        schema, files = manifest["schema"], dict(manifest["files"])
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: its {MANIFEST} is not readable: {error}") from error
    if schema != SCHEMA:
        raise UserError(
            f"{file}: a kit of schema {schema}, this version reads {SCHEMA}; update moebert-bench"
        )
    for name in files:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or name == MANIFEST:
            raise UserError(f"{file}: names {name!r}, which would lie outside the kit; nothing was unpacked")
    return files


def _extract(archive: tarfile.TarFile, file: Path, expected: Mapping[str, str], folder: Path) -> None:
    """Write the files that the manifest names, and no others, checking each."""
    found = set()
    for member in archive:
        if member.name == MANIFEST:
            continue
        content = archive.extractfile(member) if member.isreg() else None
        if content is None or member.name not in expected:
            raise UserError(
                f"{file}: {member.name} is not a file that its {MANIFEST} names; nothing was kept"
            )
        target = folder / member.name
        target.parent.mkdir(parents=True, exist_ok=True)
        if _copy_hashed(content, target) != expected[member.name]:
            raise UserError(f"{file}: {member.name} is damaged (wrong sha256); nothing was kept")
        found.add(member.name)
    if missing := sorted(set(expected) - found):
        raise UserError(f"{file}: cut off, {', '.join(missing)} not there; nothing was kept")


def _copy_hashed(source: IO[bytes], target: Path) -> str:
    digest = hashlib.sha256()
    with target.open("wb") as out:
        for chunk in _chunks(source):
            digest.update(chunk)
            out.write(chunk)
    return digest.hexdigest()


def _chunks(source: IO[bytes]) -> Iterator[bytes]:
    while chunk := source.read(CHUNK):
        yield chunk


def _is_whole(folder: Path, expected: Mapping[str, str]) -> bool:
    return folder.is_dir() and all(
        (folder / name).is_file() and _sha256(folder / name) == sha256 for name, sha256 in expected.items()
    )


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _placed(value: Any, folder: str) -> Any:
    """Put the folder of the kit where the packed matrix says ``{kit}``."""
    if isinstance(value, str):
        return folder + value.removeprefix(HERE) if value.startswith(HERE) else value
    if isinstance(value, list):
        return [_placed(item, folder) for item in value]
    if isinstance(value, dict):
        return {key: _placed(item, folder) for key, item in value.items()}
    return value
