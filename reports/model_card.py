"""A folder that ``from_pretrained`` loads, with a card: what it is, how it was made, how it was measured."""

from __future__ import annotations

import difflib
import json
import shutil
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from reports.captions import MULTIPLY_ADDS, SPEEDUP
from reports.formats import escape_markdown
from results.errors import RunFolderError
from results.frame import Frame, load
from results.published import references
from results.record import CellRecord
from results.store import RunFolder, whole_folder

PIPELINES = {
    "classification": "text-classification",
    "regression": "text-classification",
    "extractive-qa": "question-answering",
}
AUTO_MODELS = {
    "classification": "AutoModelForSequenceClassification",
    "regression": "AutoModelForSequenceClassification",
    "extractive-qa": "AutoModelForQuestionAnswering",
}
_ESCAPES = {ord(sign): f"\\u{ord(sign):04x}" for sign in "`<"}
ONE_DATA_SET = (
    "Measured on the validation split of one data set with one seed; other text, longer text and other languages were "
    "not tried, nor were bias and robustness."
)


def export(run: Path, cell: str, out: Path) -> list[Path]:
    """Write a cell's checkpoint with its card.

    Args:
        run: The run folder.
        cell: Id of a finished cell, or how it begins.
        out: A new or empty folder.

    Returns:
        The files, ``README.md`` first.

    Raises:
        RunFolderError: Where there is no such finished cell, or its checkpoint was not kept.
        FileExistsError: Where ``out`` is not empty.
    """
    folder = RunFolder(run)
    record = _finished(folder, cell)
    model = folder.model_folder(record.id)
    if not (model / "config.json").is_file():
        raise RunFolderError(
            f"{model}: the checkpoint of {record.label} on {record.task} was not kept; run it again"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(f"{out}: not empty; name a new folder")
    text = card(record, load(run), json.loads((model / "config.json").read_text(encoding="utf-8")))
    with whole_folder(out) as temporary:
        shutil.copytree(model, temporary, dirs_exist_ok=True)
        (temporary / "README.md").write_text(text, encoding="utf-8")
        names = sorted(path.relative_to(temporary) for path in temporary.rglob("*") if path.is_file())
    return sorted((out / name for name in names), key=lambda path: path.name != "README.md")


def card(record: CellRecord, frame: Frame, config: dict[str, Any]) -> str:
    """Write the card of a finished cell: metadata block, results, how it was made, use and limits."""
    metadata = yaml.safe_dump(_metadata(record, config), sort_keys=False, allow_unicode=True)
    sections = [
        f"# {escape_markdown(record.label)} on {escape_markdown(record.task)}",
        _purpose(record),
        "## Intended use",
        _use(record),
        "## Results",
        _results(record, frame),
        "## Latency",
        _latency(record, frame),
        "## How it was made",
        _making(record),
        "## How to load it",
        _loading(record, config),
        "## Limits",
        _limits(record),
    ]
    return f"---\n{metadata}---\n\n" + "\n\n".join(sections) + "\n"


def _finished(folder: RunFolder, cell: str) -> CellRecord:
    cells = [record for record in folder.records() if isinstance(record, CellRecord)]
    found = [record for record in cells if record.id.startswith(cell)]
    if len(found) != 1:
        known = [record.id for record in cells]
        close = difflib.get_close_matches(cell, known, n=1)
        hint = f"; did you mean {close[0]}?" if close else ";"
        count = "no cell" if not found else f"{len(found)} cells"
        raise RunFolderError(
            f"{folder.path}: {count} named {cell!r}{hint} known: {', '.join(known) or 'none'}"
        )
    if found[0].status != "done":
        raise RunFolderError(f"{folder.path}: cell {found[0].id} is {found[0].status}: {found[0].reason}")
    return found[0]


def _metadata(record: CellRecord, config: dict[str, Any]) -> dict[str, Any]:
    task = record.identity.task
    pipeline = PIPELINES[str(task.get("head", "classification"))]
    dataset = {"name": record.task, "type": str(task.get("source", {}).get("path", record.task))}
    results = [
        {
            "task": {"type": pipeline},
            "dataset": dataset | {"split": split},
            "metrics": [{"type": score, "value": value, "name": score} for score, value in scores.items()],
        }
        for split, scores in record.scores.items()
    ]
    return {
        "library_name": "transformers",
        "pipeline_tag": pipeline,
        "tags": list(
            dict.fromkeys(
                ["bert", "compression", str(config.get("model_type", "bert")), record.identity.method]
            )
        ),
        "metrics": sorted({score for scores in record.scores.values() for score in scores}),
        "model-index": [{"name": f"{record.label} on {record.task}", "results": results}],
    }


def _purpose(record: CellRecord) -> str:
    what = "The fine-tuned teacher" if record.teacher_id is None else "A compressed BERT"
    return f"{what} for one task: {escape_markdown(_task_summary(record))}."


def _task_summary(record: CellRecord) -> str:
    return str(record.identity.task.get("summary", "")) or record.task


def _use(record: CellRecord) -> str:
    task = record.identity.task
    columns = " and ".join(str(name) for name in task.get("text", ())) or "text"
    longest = f", together at most {task['max_length']} tokens" if "max_length" in task else ""
    answers = {
        "classification": f"one of {', '.join(str(name) for name in task.get('labels', ())) or 'its classes'}",
        "regression": "one number",
        "extractive-qa": "the start and the end of the answer in the context",
    }
    answer = answers[str(task.get("head", "classification"))]
    return (
        "Research on compression, for this one task: as a point of comparison, or to time and take apart. "
        f"In: {escape_markdown(columns)}, like the rows that it was trained on{longest}. "
        f"Out: {escape_markdown(answer)}. Nothing that is decided about people should rest on it."
    )


def _results(record: CellRecord, frame: Frame) -> str:
    lines = ["| split | score | value × 100 |", "| --- | --- | ---: |"]
    for split, scores in record.scores.items():
        rows = record.rows.get(split)
        size = f" ({rows} rows)" if rows is not None else ""
        lines += [
            f"| {split}{size} | {escape_markdown(name)} | {100 * value:.1f} |"
            for name, value in scores.items()
        ]
    cells = frame.cells
    (task,) = cells.loc[cells["cell_id"] == record.id, "task"]
    seeds = len(
        cells[(cells["task"] == task) & (cells["label"] == record.label) & (cells["status"] == "done")]
    )
    text = (
        f"One seed ({record.identity.seed}) of {seeds} that were run; the report of the run has the spread."
    )
    return "\n".join([*lines, "", text, *_size(record)])


def _size(record: CellRecord) -> list[str]:
    cost = record.cost
    if cost is None:
        return []
    return [
        "",
        f"- effective parameters: {cost.effective_parameters:,}, encoder {cost.effective_encoder_parameters:,}",
        f"- stored parameters: {cost.stored_parameters:,}, encoder {cost.stored_encoder_parameters:,}",
        f"- multiply-adds at {cost.length} tokens: {cost.multiply_adds:,}. {MULTIPLY_ADDS}",
    ]


def _latency(record: CellRecord, frame: Frame) -> str:
    timed: pd.DataFrame = frame.latency[
        (frame.latency["cell_id"] == record.id) & (frame.latency["status"] == "done")
    ]
    if timed.empty:
        return "Not timed."
    conditions = ["device", "runtime", "dtype", "threads", "workload"]
    rows = [[*conditions, "p50 (ms)", "speed-up"], ["---"] * 7]
    for _, row in timed.iterrows():
        speedup = f"{row['speedup']:.2f}× [{row['speedup_low']:.2f}, {row['speedup_high']:.2f}]"
        rows.append(
            [
                *(escape_markdown(str(row[name])) for name in conditions),
                f"{row['p50_ms']:.3g}",
                escape_markdown(speedup),
            ]
        )
    return "\n".join([*(f"| {' | '.join(row)} |" for row in rows), "", SPEEDUP])


def _making(record: CellRecord) -> str:
    identity = record.identity
    paper = references().get(record.paper)
    facts = {
        "method": identity.method + (f" ({paper.cite()}, {paper.title})" if paper else ""),
        "configuration": _code(identity.config) if identity.config else "none",
        "budget": _code(identity.budget.model_dump(mode="json")),
        "seed": str(identity.seed),
        "precision": identity.precision,
        "data fingerprint": identity.data,
        "rows": ", ".join(f"{role} {count}" for role, count in record.rows.items()),
        "sha256 of the checkpoint that it starts from": identity.teacher,
        "sha256 of these weights": record.weights_sha256,
        "suite": f"moebert-bench {record.suite_version}, cell {record.id}",
    }
    return "\n".join(
        f"- {name}: {value if value.startswith('`') else escape_markdown(value)}"
        for name, value in facts.items()
    )


def _code(value: Any) -> str:
    """Write plain data as code; what would end the code or begin a tag stands as JSON's own escape."""
    text = json.dumps(value, ensure_ascii=False)
    return f"`{text.translate(_ESCAPES)}`"


def _loading(record: CellRecord, config: dict[str, Any]) -> str:
    model = AUTO_MODELS[str(record.identity.task.get("head", "classification"))]
    kind = str(config.get("model_type", "bert"))
    lines = [
        *(f"import {module}  # registers the model type {kind!r}" for module in _registering(record, kind)),
        f"from transformers import AutoTokenizer, {model}",
        "",
        f'model = {model}.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
    ]
    return "\n".join(["```python", *lines, "```"])


def _registering(record: CellRecord, kind: str) -> list[str]:
    """Name what must be imported before the model type is known: nothing, a package of its name, or the method."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

    if kind in CONFIG_MAPPING_NAMES:
        return []
    if kind.isidentifier() and find_spec(kind) is not None:
        return [kind]
    found = entry_points(group="moebench.methods", name=record.identity.method)
    return [next((point.module for point in found), "the_package_of_the_method")]


def _limits(record: CellRecord) -> str:
    limits = [ONE_DATA_SET]
    if record.identity.limit is not None:
        limits.append(f"SMOKE RUN: at most {record.identity.limit} rows of each split; not a result.")
    if notes := str(record.identity.task.get("notes", "")):
        limits.append(f"Known of the data: {escape_markdown(notes)}.")
    if licence := str(record.identity.task.get("licence", "")):
        limits.append(
            f"Licence of the data: {escape_markdown(licence)}; that of the starting checkpoint applies too."
        )
    limits += [f"Warning of the run: {escape_markdown(warning)}." for warning in record.warnings]
    return "\n".join(f"- {limit}" for limit in limits)
