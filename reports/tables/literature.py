"""GLUE and SQuAD in the layout of the papers: ours first, then what papers print, each source in a block of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from reports import captions
from reports.comparisons import compare
from reports.entries import DASH, Entry, Group, Table, blank
from reports.outcomes import evaluation_splits, labels, main_score, outcomes, scores_of
from results.frame import Frame
from results.published import Published, references, search


@dataclass(frozen=True)
class Measure:
    """One column of a paper's table.

    Attributes:
        heading: As papers print it.
        task: Name of the task.
        score: Name of the score.
        role: Our evaluation split.
        split: What publications call it.
    """

    heading: str
    task: str
    score: str
    role: str = "validation"
    split: str = "dev"


# The order of the MoEBERT paper's Table 1, then the tasks that it leaves out.
GLUE = (
    Measure("RTE acc", "rte", "accuracy"),
    Measure("CoLA mcc", "cola", "matthews"),
    Measure("MRPC F1", "mrpc", "f1"),
    Measure("MRPC acc", "mrpc", "accuracy"),
    Measure("SST-2 acc", "sst2", "accuracy"),
    Measure("QNLI acc", "qnli", "accuracy"),
    Measure("QQP F1", "qqp", "f1"),
    Measure("QQP acc", "qqp", "accuracy"),
    Measure("MNLI m", "mnli", "accuracy"),
    Measure("MNLI mm", "mnli", "accuracy", "validation_mismatched", "dev mismatched"),
    Measure("STS-B Pearson", "stsb", "pearson"),
    Measure("STS-B Spearman", "stsb", "spearman"),
    Measure("WNLI acc", "wnli", "accuracy"),
)
SQUAD = (
    Measure("v1.1 EM", "squad-v1.1", "exact_match"),
    Measure("v1.1 F1", "squad-v1.1", "f1"),
    Measure("v2.0 EM", "squad-v2.0", "exact_match"),
    Measure("v2.0 F1", "squad-v2.0", "f1"),
)
PRINTED = (
    "Printed numbers are of other runs, teachers and data orders, read at the named source; all are development-set "
    "values. F1 and accuracy are never averaged."
)


def literature_tables(frame: Frame) -> list[Table]:
    """Draw the GLUE and the SQuAD table, each where the frame has one of its tasks."""
    drawn = [
        _table(frame, "glue", "GLUE, development sets", GLUE),
        _table(frame, "squad", "SQuAD, development sets", SQUAD),
    ]
    return [table for table in drawn if table is not None]


def _table(frame: Frame, name: str, title: str, measures: Sequence[Measure]) -> Table | None:
    variants = frame.cells[["task_name", "task"]].drop_duplicates()
    columns = [
        (measure, task)
        for measure in measures
        for task in sorted(variants.loc[variants["task_name"] == measure.task, "task"])
        if measure.score in scores_of(frame, task) and measure.role in evaluation_splits(frame, task)
    ]
    if not columns:
        return None
    rows = [(Entry(label), *(_ours(frame, label, *column) for column in columns)) for label in labels(frame)]
    groups = {0: Group("measured here")}
    for source in _sources(frame):
        printed = _printed(source, [measure for measure, _ in columns])
        if printed:
            groups[len(rows)] = Group(f"printed in {references()[source].cite()} [{source}]")
            rows += printed
    headings = [
        measure.heading
        if task == measure.task
        else f"{measure.heading} {task.removeprefix(measure.task).strip()}"
        for measure, task in columns
    ]
    notes = (
        *captions.conditions(frame),
        captions.SCORES,
        PRINTED,
    )
    column_tasks = ("", *(task for _, task in columns))
    return Table(name, title, ("method", *headings), tuple(rows), notes, groups, column_tasks)


def _ours(frame: Frame, label: str, measure: Measure, task: str) -> Entry:
    entry = outcomes(frame, task, split=measure.role, score=measure.score)[label].entry()
    marked = measure.score == main_score(frame, task) and label in compare(frame, task, measure.role).tied
    return replace(entry, marked=marked)


def _sources(frame: Frame) -> list[str]:
    """Return the papers of the methods that were run, which is what a reader wants beside them."""
    return sorted(set(frame.cells["paper"]) - {""})


def _printed(source: str, measures: Sequence[Measure]) -> list[tuple[Entry, ...]]:
    found = [row for row in search(source=source) if row.value]
    rows = []
    for method in dict.fromkeys(row.method for row in found):
        entries = [
            _published(measure, [row for row in found if row.method == method]) for measure in measures
        ]
        if any(entry.value is not None for entry in entries):
            rows.append((Entry(method), *entries))
    return rows


def _published(measure: Measure, rows: Sequence[Published]) -> Entry:
    same = [
        row
        for row in rows
        if (row.task, row.score, row.split) == (measure.task, measure.score, measure.split)
    ]
    if not same:
        return Entry(DASH)
    values = list(dict.fromkeys(row.value for row in same))
    note = "; ".join(dict.fromkeys(row.warning for row in same if row.warning))
    if len(values) > 1:
        return blank(f"{' or '.join(values)}, by place in the source")
    return Entry(values[0], float(values[0]), note=note)
