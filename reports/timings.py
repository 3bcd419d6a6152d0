"""Which timings may stand in one column: those of one environment, runtime and workload."""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import pandas as pd

from reports.entries import Entry, blank, ratio
from reports.outcomes import teacher_label
from reports.statistics import Estimate, geometric_mean
from results.frame import Frame


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
        device = f"{self.device} (environment {self.environment})"
        return f"{device}, runtime {self.runtime}, {self.dtype}, {threads}, {self.workload}"

    def of(self, latency: pd.DataFrame) -> pd.DataFrame:
        """Return the timings made under these conditions."""
        return latency[(latency[_KEYS] == pd.Series(astuple(self), index=_KEYS)).all(axis=1)]


_KEYS = [field.name for field in fields(Setting)]


def settings(frame: Frame) -> list[Setting]:
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


def speedup(frame: Frame, setting: Setting, label: str, *, task: str | None = None) -> Estimate | None:
    """Pool a method's ratios to the teacher under one setting; None where there is none."""
    timings = setting.of(frame.latency)
    done = timings[(timings["label"] == label) & (timings["status"] == "done")]
    done = done if task is None else done[done["task"] == task]
    if done.empty:
        return None
    return geometric_mean(list(zip(done["speedup"], done["speedup_low"], done["speedup_high"], strict=True)))


def speedup_entry(frame: Frame, setting: Setting, label: str) -> Entry:
    """Show a method's speed-up under one setting, or a dash and why there is none."""
    if label == teacher_label(frame):
        return Entry("1.00×", 1.0)
    timings = frame.latency[frame.latency["label"] == label]
    same = setting.of(timings)
    estimate = speedup(frame, setting, label)
    if estimate is None:
        return blank(_why_none(timings, same))
    done = same[same["status"] == "done"]
    finished = set(
        frame.cells.loc[(frame.cells["label"] == label) & (frame.cells["status"] == "done"), "task"]
    )
    untimed = sorted(finished - set(done["task"]))
    notes = [f"not timed on {', '.join(untimed)}"] if untimed else []
    notes += dict.fromkeys(line for text in done["warnings"] for line in text.split("\n") if line)
    return ratio(estimate, cells=done["cell_id"], note="; ".join(notes))


def _why_none(timings: pd.DataFrame, same: pd.DataFrame) -> str:
    if not same.empty:
        return "; ".join(dict.fromkeys(f"{row['status']}: {row['reason']}" for _, row in same.iterrows()))
    if timings.empty:
        return "not timed"
    elsewhere = ", ".join(sorted(timings["environment"].unique()))
    return f"timed only under other conditions (environment {elsewhere}); a speed-up is never carried across"
