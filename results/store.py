"""The run folder: source of truth is one JSON file a record, written whole or not at all."""

from __future__ import annotations

import gzip
import json
import logging
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pydantic import ValidationError

from results.environment import Environment
from results.errors import RunFolderError
from results.record import (
    SCHEMA_VERSION,
    AnatomyRecord,
    CellRecord,
    LatencyRecord,
    record_adapter,
)

AnyRecord = CellRecord | LatencyRecord | AnatomyRecord
PACKED = ".json.gz"
ROWS = "rows"  # folder beside predictions
log = logging.getLogger(__name__)


def _name(file: Path) -> str:
    return file.name  # orders the files of one folder far sooner than whole paths do


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that a reader, or the next run after a kill, sees all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


class RunFolder:
    """A folder of records, predictions, models and environments.

    Args:
        path: The folder; it need not exist until something is written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def matrix_file(self) -> Path:
        """The matrix that this folder answers, as it was run."""
        return self.path / "matrix.yaml"

    def record_file(self, record_id: str) -> Path:
        """Return where a record is kept, packed or as it is."""
        plain = self.path / "records" / f"{record_id}.json"
        packed = plain.with_suffix(PACKED)
        return packed if packed.exists() else plain

    def model_folder(self, cell_id: str) -> Path:
        """Return where a cell's finalized checkpoint is kept."""
        return self.path / "models" / cell_id

    def predictions_file(self, cell_id: str) -> Path:
        """Return where a cell's logits are kept."""
        return self.path / "predictions" / f"{cell_id}.parquet"

    def checkpoint_folder(self, cell_id: str) -> Path:
        """Return where the state of an unfinished training is kept."""
        return self.path / "checkpoints" / cell_id

    def records(self) -> list[AnyRecord]:
        """Read every record, oldest id first; a corrupt file is set aside with a warning.

        Raises:
            RunFolderError: Where a newer version of the suite wrote one of them.
        """
        return [record for file in self._files() if (record := self._read(file)) is not None]

    def record(self, record_id: str) -> AnyRecord | None:
        """Read one record, or return None."""
        file = self.record_file(record_id)
        return self._read(file) if file.exists() else None

    def write(self, record: AnyRecord) -> None:
        """Keep a record, replacing an earlier one of the same id."""
        _write_record(self.record_file(record.id), record)

    def pack(self, record: AnyRecord) -> None:
        """Keep a record in a fifth of the space."""
        plain = self.path / "records" / f"{record.id}.json"
        _write_record(plain.with_suffix(PACKED), record)
        plain.unlink(missing_ok=True)

    def write_environment(self, environment: Environment) -> str:
        """Keep an environment and return its id."""
        file = self.path / "environments" / f"{environment.id}.json"
        if not file.exists():
            write_atomically(file, environment.model_dump_json(indent=1).encode())
        return environment.id

    def environments(self) -> dict[str, Environment]:
        """Read every environment by id.

        Raises:
            RunFolderError: Where one cannot be read.
        """
        found = {}
        for file in sorted((self.path / "environments").glob("*.json")):
            try:
                found[file.stem] = Environment.model_validate_json(file.read_bytes())
            except ValidationError as error:
                raise RunFolderError(
                    f"{file}: not a readable environment; restore it or remove it"
                ) from error
        return found

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one run; a killed run frees it.

        Raises:
            RunFolderError: Where another run holds it, or it cannot be written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / ".lock", timeout=0):
                yield
        except Timeout:
            raise RunFolderError(f"{self.path}: another run is working in this folder; wait for it") from None

    def set_superseded_aside(self, cell_ids: Iterable[str]) -> None:
        """Move the records of cells that a later tuning replaced, and of their timings, to ``superseded/``."""
        gone = set(cell_ids)
        for record in self.records() if gone else []:
            cells = {record.id}
            if not isinstance(record, CellRecord):
                cells |= {record.cell_id, getattr(record, "baseline_id", "")}
            if cells & gone:
                file = self.record_file(record.id)
                aside = self.path / "superseded" / file.name
                aside.parent.mkdir(exist_ok=True)
                file.replace(aside)

    def _files(self) -> list[Path]:
        files = (file for end in (".json", PACKED) for file in (self.path / "records").glob(f"*{end}"))
        return sorted(files, key=_name)

    def _read(self, file: Path) -> AnyRecord | None:
        content = file.read_bytes()
        try:
            content = gzip.decompress(content) if file.name.endswith(PACKED) else content
            record: AnyRecord = record_adapter.validate_json(content)
        except (ValidationError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            _refuse_newer(file, _written_by(content))
            self._set_aside(file, error)
            return None
        _refuse_newer(file, record.schema_version)
        if record.id != file.name.partition(".")[0]:
            self._set_aside(file, ValueError(f"it holds the record {record.id}"))
            return None
        return record

    def _set_aside(self, file: Path, error: Exception) -> None:
        aside = self.path / "corrupt" / file.name
        aside.parent.mkdir(exist_ok=True)
        file.replace(aside)
        reason = str(error).splitlines()[0]
        log.warning(
            "%s is not a readable record (%s); moved to %s, its cell will be run again", file, reason, aside
        )


def _write_record(file: Path, record: AnyRecord) -> None:
    if file.name.endswith(PACKED):
        write_atomically(file, gzip.compress(record.model_dump_json().encode(), mtime=0))
    else:
        write_atomically(file, record.model_dump_json(indent=1).encode())


def _written_by(content: bytes) -> object:
    """Return the schema version of a document that is no record of today's, None where it has none."""
    try:
        document = json.loads(content)
    except ValueError:
        return None
    return document.get("schema_version") if isinstance(document, dict) else None


def _refuse_newer(file: Path, written_by: object) -> None:
    if isinstance(written_by, int) and written_by > SCHEMA_VERSION:
        raise RunFolderError(
            f"{file}: written by schema {written_by}, this version reads up to {SCHEMA_VERSION}; update moebert-bench"
        )


def merge(sources: Iterable[Path], out: Path, *, models: bool = True) -> int:
    """Join run folders; a finished record wins over a failed one, else the later one.

    Args:
        sources: Run folders.
        out: The joined one.
        models: Whether checkpoints are copied too.

    Returns:
        Number of records in the joined folder.

    Raises:
        RunFolderError: Where a folder is missing, or two teachers stand under one (task, data, seed).
    """
    folders = [RunFolder(path) for path in sources]
    for folder in folders:
        if not (folder.path / "records").is_dir():
            raise RunFolderError(f"{folder.path}: not a run folder (it has no records/)")
    chosen: dict[str, tuple[AnyRecord, RunFolder]] = {}
    for folder in folders:
        for record in folder.records():
            present = chosen.get(record.id)
            if present is None or _rank(record) > _rank(present[0]):
                chosen[record.id] = (record, folder)
    _refuse_two_teachers(record for record, _ in chosen.values())
    target = RunFolder(out)
    with target.lock():
        if not target.matrix_file.exists() and folders[0].matrix_file.exists():
            write_atomically(target.matrix_file, folders[0].matrix_file.read_bytes())
        for folder in folders:
            for environment in folder.environments().values():
                target.write_environment(environment)
        for record, folder in chosen.values():
            _copy_outputs(record.id, folder, target, models)
            target.write(record)
    return len(target.records())


def copy_tries(source: Path, target: Path) -> int:
    """Copy the records of a tuning's tries, packed; they decide for cells wherever these are made.

    Returns:
        Their number.

    Raises:
        RunFolderError: Where there are none.
    """
    folder, out = RunFolder(source), RunFolder(target)
    tries = [
        record
        for record in folder.records()
        if isinstance(record, CellRecord) and record.identity.held_out is not None
    ]
    if not tries:
        raise RunFolderError(f"{source}: no tries of a tuning; `moebench run MATRIX --tries-only` makes them")
    environments = folder.environments()
    for record in tries:
        if record.environment in environments:
            out.write_environment(environments[record.environment])
        out.pack(record)
    return len(tries)


def _rank(record: AnyRecord) -> tuple[bool, str]:
    return record.status != "failed", record.finished


def _refuse_two_teachers(records: Iterable[AnyRecord]) -> None:
    teachers: dict[tuple[str, str, int | None, int], CellRecord] = {}
    for record in records:
        if (
            not isinstance(record, CellRecord)
            or record.identity.method != "teacher"
            or record.identity.held_out is not None
            or record.status != "done"
        ):
            continue
        identity = record.identity
        key = (record.task, identity.data, identity.limit, identity.seed)
        other = teachers.setdefault(key, record)
        if other.weights_sha256 != record.weights_sha256:
            raise RunFolderError(
                f"two teachers for task {record.task!r}, seed {identity.seed}: cells {other.id} and {record.id} have "
                "different weights; students of different teachers cannot share a table, so merge runs of one teacher"
            )


def _copy_outputs(cell_id: str, source: RunFolder, target: RunFolder, models: bool) -> None:
    if source.path.resolve() == target.path.resolve():
        return
    predictions = source.predictions_file(cell_id)
    if predictions.exists():
        write_atomically(target.predictions_file(cell_id), predictions.read_bytes())
        for rows in (predictions.parent / ROWS).glob("*"):  # of compact predictions; named by their content
            write_atomically(target.predictions_file(cell_id).parent / ROWS / rows.name, rows.read_bytes())
    model = source.model_folder(cell_id)
    if models and model.is_dir() and not target.model_folder(cell_id).exists():
        with whole_folder(target.model_folder(cell_id)) as folder:
            shutil.copytree(model, folder, dirs_exist_ok=True)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder that takes the place of ``path`` when the block ends well, and vanishes otherwise.

    Whenever it is killed, the earlier folder or the new one is there, whole: at ``path``, or for the moment between two
    renames beside it, from where the next call brings it back.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    earlier = path.with_name(f".{path.name}.earlier")
    _bring_back(earlier, path)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}."))
    try:
        yield temporary
        temporary.chmod(0o755)
        shutil.rmtree(earlier, ignore_errors=True)
        if path.exists():
            path.replace(earlier)
        temporary.replace(path)
        shutil.rmtree(earlier, ignore_errors=True)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        _bring_back(earlier, path)
        raise


def _bring_back(earlier: Path, path: Path) -> None:
    if earlier.exists() and not path.exists():
        earlier.replace(path)
