"""Which timings may stand in one column: those of one environment, runtime and workload."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from functools import lru_cache

import pandas as pd

from reports.entries import Entry, blank, ratio
from reports.outcomes import FRAMES, outcomes, tasks, teacher_label
from reports.statistics import Estimate, geometric_mean
from results.frame import Frame

Ratio = tuple[float, float, float]  # a speed-up and the ends of its interval


@dataclass(frozen=True, order=True)
class Setting:
    """Conditions that timings must share before they share a column."""

    environment: str
    device: str
    runtime: str
    dtype: str
    threads: int
    workload: str

    def describe(self) -> str:
        """Name the conditions as a caption does."""
        threads = "1 thread" if self.threads == 1 else f"{self.threads} threads"
        device = f"{self.device} (environment {self.environment[:8]})"
        return f"{device}, runtime {self.runtime}, {self.dtype}, {threads}, {self.workload}"


_KEYS = [field.name for field in fields(Setting)]


@lru_cache(maxsize=FRAMES)
def settings(frame: Frame) -> Sequence[Setting]:
    """Return the conditions of all timings, those with most finished timings first; then real lengths before fixed."""
    found = []
    for _, group in frame.latency.groupby(_KEYS, sort=True):
        first = group.iloc[0]
        setting = Setting(**{str(name): first[name] for name in _KEYS})
        found.append((-int((group["status"] == "done").sum()), bool(group["length"].notna().any()), setting))
    return [setting for *_, setting in sorted(found)]


def headline(frame: Frame) -> Setting | None:
    """Return the conditions that the main table shows: those under which most timings finished."""
    return next(iter(settings(frame)), None)


@lru_cache(maxsize=256)
def timings(frame: Frame, setting: Setting) -> pd.DataFrame:
    """Return the timings made under these conditions."""
    latency = frame.latency
    return latency[(latency[_KEYS] == pd.Series(astuple(setting), index=_KEYS)).all(axis=1)]


@lru_cache(maxsize=256)
def _ratios(frame: Frame, setting: Setting) -> Mapping[str, Mapping[str, Sequence[Ratio]]]:
    """Return the finished ratios by method and task."""
    done = timings(frame, setting)
    done = done[done["status"] == "done"]
    found: dict[str, dict[str, list[Ratio]]] = defaultdict(lambda: defaultdict(list))
    columns = [done[name] for name in ("label", "task", "speedup", "speedup_low", "speedup_high")]
    for label, task, *values in zip(*columns, strict=True):
        found[label][task].append((float(values[0]), float(values[1]), float(values[2])))
    return found


def speedup(frame: Frame, setting: Setting, label: str, *, task: str | None = None) -> Estimate | None:
    """Pool a method's ratios to the teacher under one setting; None where there is none."""
    by_task = _ratios(frame, setting).get(label, {})
    chosen = [ratio for name, ratios in by_task.items() if task in (None, name) for ratio in ratios]
    return geometric_mean(chosen) if chosen else None


def speedup_entry(frame: Frame, setting: Setting, label: str, *, in_full: bool = False) -> Entry:
    """Show a method's speed-up under one setting, or a dash and why there is none.

    Args:
        frame: The records.
        setting: What all its timings share.
        label: The method.
        in_full: Say each warning with its numbers, not its name alone.
    """
    same = timings(frame, setting)
    same = same[same["label"] == label]
    estimate = speedup(frame, setting, label)
    if estimate is None and label == teacher_label(frame):
        return Entry("1.00×", 1.0)
    if estimate is None:
        return blank(_why_none(frame.latency[frame.latency["label"] == label], same))
    done = same[same["status"] == "done"]
    finished = {task for task in tasks(frame) if outcomes(frame, task)[label].scores}
    untimed = sorted(finished - set(done["task"]))
    notes = [f"not timed on {', '.join(untimed)}"] if untimed else []
    if label == teacher_label(frame):
        notes.append("the teacher against itself: how far chance alone moves a ratio")
    warnings = dict.fromkeys(line for text in done["warnings"] for line in text.split("\n") if line)
    named = dict.fromkeys(line.partition(":")[0] for line in warnings)
    if warnings:
        notes.append("; ".join(warnings) if in_full else f"timing doubtful: {', '.join(named)}")
    return ratio(estimate, cells=done["latency_id"], note="; ".join(notes))


def _why_none(anywhere: pd.DataFrame, same: pd.DataFrame) -> str:
    if not same.empty:
        return "; ".join(dict.fromkeys(f"{row['status']}: {row['reason']}" for _, row in same.iterrows()))
    if anywhere.empty:
        return "not timed"
    elsewhere = ", ".join(sorted(environment[:8] for environment in anywhere["environment"].unique()))
    return f"timed only under other conditions (environment {elsewhere}); a speed-up is never carried across"
