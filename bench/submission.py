"""The zip of predictions that GLUE's server takes: written from the kept checkpoints, and checked against the format.

Eleven files at the top of the zip, one a test split, each with the header ``index<TAB>prediction`` and a line for every
row, indices from 0 in the split's order. Inference tasks are answered by the name of a class, the other classifications
by its code, STS-B by a number from 0 to 5. The server refuses a zip that lacks a file.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.errors import UserError, unknown
from bench.tasks import catalog
from bench.tasks.glue import OFFICIAL_ROWS
from results.record import CellRecord
from results.store import RunFolder, write_atomically

if TYPE_CHECKING:
    from bench.plans import CellPlan
    from bench.tasks.arrays import Logits
    from bench.tasks.task import Task

HEADER = "index\tprediction"
HIGHEST = 5.0  # score of STS-B


@dataclass(frozen=True)
class File:
    """One file of the zip.

    Attributes:
        task: Whose model answers.
        role: The split that it answers.
        answers: ``names`` or ``codes`` of classes, or ``scores``.
    """

    task: str
    role: str
    answers: Literal["names", "codes", "scores"]

    @property
    def rows(self) -> int:
        """Rows of the official split."""
        return OFFICIAL_ROWS[self.task][self.role]

    def allowed(self) -> tuple[str, ...]:
        """Return the answers that there are; none for scores."""
        labels = catalog.find(self.task).labels
        return labels if self.answers == "names" else tuple(str(code) for code in range(len(labels)))


FILES = {
    "CoLA.tsv": File("cola", "test", "codes"),
    "SST-2.tsv": File("sst2", "test", "codes"),
    "MRPC.tsv": File("mrpc", "test", "codes"),
    "STS-B.tsv": File("stsb", "test", "scores"),
    "QQP.tsv": File("qqp", "test", "codes"),
    "MNLI-m.tsv": File("mnli", "test", "names"),
    "MNLI-mm.tsv": File("mnli", "test_mismatched", "names"),
    "QNLI.tsv": File("qnli", "test", "names"),
    "RTE.tsv": File("rte", "test", "names"),
    "WNLI.tsv": File("wnli", "test", "codes"),
    "AX.tsv": File("mnli", "test_ax", "names"),
}


def submit(
    run: RunFolder,
    method: str,
    *,
    seed: int | None = None,
    out: Path | None = None,
    data: Path | None = None,
    fill: bool = False,
) -> tuple[Path, list[str]]:
    """Write the zip of one method's students.

    Args:
        run: Its folder, with the checkpoints.
        method: As the tables call it.
        seed: Whose students; None means the first seed of the matrix.
        out: The zip; None means ``submissions/<method>-<seed>.zip`` in the run folder.
        data: Folder of Parquet files with the test splits; None means the matrix's own.
        fill: Answer the tasks that the run lacks by a constant, so that the server takes the rest.

    Returns:
        The zip, and the tasks that were filled.

    Raises:
        UserError: Naming what is missing: a task, a checkpoint, a test split, or some of its rows.
    """
    from bench.matrix import load_matrix
    from bench.recorded import recorded_cells

    cells = [cell for cell in recorded_cells(run) if cell.task in OFFICIAL_ROWS]
    labels = list(dict.fromkeys(cell.label for cell in cells))
    if method not in labels:
        raise unknown("method", method, labels, where=str(run.path))
    seeds = [cell.seed for cell in cells if cell.label == method]
    chosen = seeds[0] if seed is None else seed
    if chosen not in seeds:
        raise unknown("seed", str(chosen), [str(one) for one in dict.fromkeys(seeds)], where=str(run.path))
    done = {
        cell.task: (cell.plan, cell.record)
        for cell in cells
        if (cell.label, cell.seed) == (method, chosen) and cell.record and cell.record.status == "done"
    }
    limited = [task for task, (_, record) in done.items() if record.identity.limit is not None]
    if limited:
        raise UserError(
            f"{run.path} is a smoke run (--limit), no result to submit: {', '.join(limited)} saw a few rows only"
        )
    missing = list(dict.fromkeys(file.task for file in FILES.values() if file.task not in done))
    if missing and not fill:
        raise UserError(
            f"{run.path} has no finished {method} at seed {chosen} on {', '.join(missing)}; the server wants all "
            "tasks: run them, or fill them with a constant by --fill"
        )
    kept = load_matrix(str(run.matrix_file)).data
    data = data or (Path(kept).expanduser() if kept else None)
    contents: dict[str, str] = {}
    for task, (plan, record) in done.items():
        files = {name: file for name, file in FILES.items() if file.task == task}
        if files:
            contents |= _predict(run, plan, record, files, data)
    contents |= {name: _constant(file) for name, file in FILES.items() if file.task in missing}
    _refuse(problems(contents))
    path = out or run.path / "submissions" / f"{re.sub(r'[^A-Za-z0-9._-]+', '-', method)}-{chosen}.zip"
    _write(path, contents)
    return path, missing


def check(path: Path) -> list[str]:
    """Return what the server would not take of a zip; nothing if all is well."""
    try:
        with zipfile.ZipFile(path) as archive:
            contents = {name: archive.read(name).decode("utf-8") for name in archive.namelist()}
    except (OSError, zipfile.BadZipFile, UnicodeDecodeError) as error:
        return [f"{path}: not a readable zip of text files: {error}"]
    return problems(contents)


def problems(contents: dict[str, str]) -> list[str]:
    """Return what is wrong with the files of a zip, one line a file."""
    found = [f"{name}: missing" for name in FILES if name not in contents]
    found += [f"{name}: no such file is wanted" for name in contents if name not in FILES]
    for name, file in FILES.items():
        if name in contents and (problem := _problem(file, contents[name])):
            found.append(f"{name}: {problem}")
    return found


def _problem(file: File, text: str) -> str | None:
    header, *lines = text.removesuffix("\n").split("\n")
    if header != HEADER:
        return f"the first line is {header[:40]!r}, not {HEADER!r}"
    if len(lines) != file.rows:
        return f"{len(lines):,} rows, the split has {file.rows:,}"
    allowed = file.allowed()
    for number, line in enumerate(lines):
        index, tab, answer = line.partition("\t")
        if index != str(number) or not tab:
            return f"line {number + 2} is {line[:40]!r}, not index {number}, a tab and an answer"
        if file.answers == "scores":
            if not re.fullmatch(r"\d(\.\d+)?", answer) or float(answer) > HIGHEST:
                return f"line {number + 2}: {answer!r} is no number from 0 to 5"
        elif answer not in allowed:
            return f"line {number + 2}: {answer!r} is none of {', '.join(allowed)}"
    return None


def _refuse(found: Sequence[str]) -> None:
    if found:
        raise UserError(f"the server would not take this: {'; '.join(found)}")


def _predict(
    run: RunFolder, plan: CellPlan, record: CellRecord, files: dict[str, File], data: Path | None
) -> dict[str, str]:
    """Answer the test splits of one task with the cell's checkpoint."""
    from bench.cell import EVALUATION_BATCH, load_student
    from bench.checkpoints import Checkpoint, load_tokenizer
    from bench.data import encode
    from bench.evaluation import predict
    from bench.sources import load_rows
    from bench.survey import choose_device

    folder = run.model_folder(record.id)
    if not folder.is_dir():
        raise UserError(f"{folder}: the checkpoint of {plan.label} on {plan.task.name} is not there any more")
    device, _ = choose_device(record.identity.precision)
    model = load_student(record.identity, folder, plan.task).to(device)
    tokenizer = load_tokenizer(Checkpoint(str(folder), folder, record.weights_sha256))
    answered = {}
    for name, file in files.items():
        rows = load_rows(plan.task, data=data, roles=(file.role,)).splits[file.role]
        encoded = encode(plan.task, rows, tokenizer, cache=None, key="").to(device)
        logits = predict(model, encoded, batch_size=EVALUATION_BATCH, precision=record.identity.precision)
        answered[name] = _lines(_answers(plan.task, file, logits))
    return answered


def _answers(task: Task, file: File, logits: Logits) -> list[str]:
    assert not isinstance(logits, tuple)
    if file.answers == "scores":
        return [f"{min(max(value, 0.0), HIGHEST):.3f}" for value in logits[:, 0].tolist()]
    codes = logits.argmax(axis=1).tolist()
    return [task.labels[code] if file.answers == "names" else str(code) for code in codes]


def _constant(file: File) -> str:
    return _lines(["0.000" if file.answers == "scores" else file.allowed()[0]] * file.rows)


def _lines(answers: Sequence[str]) -> str:
    return "\n".join([HEADER, *(f"{index}\t{answer}" for index, answer in enumerate(answers))]) + "\n"


def _write(path: Path, contents: dict[str, str]) -> None:
    """Write the zip whole or not at all, the same bytes for the same answers."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in FILES:
            archive.writestr(zipfile.ZipInfo(name), contents[name], zipfile.ZIP_DEFLATED)
    write_atomically(path, buffer.getvalue())
