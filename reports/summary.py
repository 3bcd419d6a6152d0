"""What a reader gets in ten seconds: the best, the fastest, the front, and what is missing."""

from __future__ import annotations

from statistics import fmean

from reports.comparisons import compare
from reports.figures.pareto import pareto_front, points, relative_time
from reports.outcomes import (
    averaged_tasks,
    evaluation_splits,
    labels,
    main_score,
    outcomes,
    tasks,
    teacher_label,
)
from reports.tables.comparison import retained
from reports.timings import headline, speedup
from results.frame import Frame

LONGEST = 3  # more tasks than this are summed up together


def summary(frame: Frame) -> list[str]:
    """Return a few sentences; a task each where there are few, one for all where there are many."""
    names = tasks(frame)
    sentences = [_best(frame, task) for task in names] if len(names) <= LONGEST else [_best_overall(frame)]
    if len(names) <= LONGEST:
        sentences += [_front(frame, task) for task in names]
    return [sentence for sentence in (*sentences, _fastest(frame), _unfinished(frame)) if sentence]


def _best(frame: Frame, task: str) -> str:
    teacher = teacher_label(frame)
    entries = {label: outcome.entry() for label, outcome in outcomes(frame, task).items() if outcome.scores}
    students = {
        label: entry for label, entry in entries.items() if label != teacher and entry.value is not None
    }
    if not students:
        return ""
    best = max(students, key=lambda label: students[label].value or 0.0)
    sentence = f"{task}: {best} is the best student with {main_score(frame, task)} {students[best].text}"
    if teacher in entries:
        sentence += f", the teacher has {entries[teacher].text}"
    tied = sorted(compare(frame, task).tied - {best})
    return f"{sentence}; not told apart from it: {', '.join(tied)}." if tied else f"{sentence}."


def _best_overall(frame: Frame) -> str:
    names = averaged_tasks(frame)
    kept = {
        task: [retained(frame, task, split) for split in evaluation_splits(frame, task)] for task in names
    }
    whole = {
        label: 100 * fmean(fmean(of_split[label].mean for of_split in kept[task]) for task in names)
        for label in labels(frame)
        if label != teacher_label(frame)
        and all(label in of_split for of_task in kept.values() for of_split in of_task)
    }
    if not whole:
        return ""
    best = max(whole, key=lambda label: whole[label])
    return f"{best} keeps most of its teacher: {whole[best]:.1f} % of the score, mean over all {len(names)} tasks."


def _front(frame: Frame, task: str) -> str:
    found = points(frame, task, relative_time)
    if len(found) < 2:
        return ""
    front = [point.label for point in pareto_front(found)]
    return f"{task}: no method beats these in both accuracy and measured latency: {', '.join(front)}."


def _fastest(frame: Frame) -> str:
    setting = headline(frame)
    if setting is None:
        return ""
    students = [label for label in labels(frame) if label != teacher_label(frame)]
    ratios = {label: ratio for label in students if (ratio := speedup(frame, setting, label)) is not None}
    if not ratios:
        return ""
    fastest = max(ratios, key=lambda label: ratios[label].mean)
    ratio = ratios[fastest]
    return f"{fastest} is the fastest: {ratio.mean:.2f}× [{ratio.low:.2f}, {ratio.high:.2f}] the teacher's speed."


def _unfinished(frame: Frame) -> str:
    status = frame.cells["status"]
    parts = [f"{count} {name}" for name in ("failed", "skipped") if (count := int((status == name).sum()))]
    return f"{' and '.join(parts)} of {len(status)} cells; the reasons stand in the tables." if parts else ""
