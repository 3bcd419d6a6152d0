"""Sentences that every caption owes its reader: conditions, conventions and what is missing."""

from __future__ import annotations

from collections.abc import Iterable

from reports.timings import headline, settings, timings
from results.frame import Frame

SCORES = (
    "Scores are × 100: mean over seeds ± half of the 95 % t-interval (n); "
    "a dash stands where one seed gives no interval."
)
AVERAGE = (
    "Average: mean of the tasks' main scores at one seed, then mean and interval over the n seeds at which the method "
    "finished every task; a task with two validation splits (MNLI) counts once, with the mean of both."
)
PARAMETERS = (
    "Encoder parameters leave the embeddings out: sizes are compared by them. Stored parameters are the elements of "
    "the checkpoint; effective ones leave out experts that a token does not visit and exact zeros. "
    "M, MB and G are powers of ten."
)
MULTIPLY_ADDS = "Multiply-adds are of one sequence; one fused multiply-add counts as one."
SPEEDUP = (
    "A speed-up is the teacher's time over the method's, both timed in turn in the same process, with its 95 % "
    "interval; several tasks or seeds are pooled by the geometric mean; ratios are never carried across environments."
)


BOLD = (
    "Bold: the best student of a column, and those that the paired test does not tell apart from it at 5 % after "
    "Holm's correction."
)
MOST_SETTINGS = 4  # that a caption names beside the headline's
NOT_TESTED = "Nothing is bold: there are no two students with predictions to test."


def conditions(frame: Frame) -> list[str]:
    """Say all that the numbers of a frame depend on."""
    return [*smoke(frame), *training(frame), *timing(frame), *conventions(frame)]


def conventions(frame: Frame) -> list[str]:
    """Say how things are counted that are counted differently elsewhere."""
    by_f1 = [task for task in ("mrpc", "qqp") if task in set(frame.cells["task_name"])]
    never = f"{' and '.join(by_f1)}: ranked by F1, which is never averaged with accuracy."
    return [MULTIPLY_ADDS, *([never] if by_f1 else [])]


def smoke(frame: Frame) -> list[str]:
    """Say what keeps these numbers from being the real thing: limited rows, renamed splits."""
    sentences = []
    limits = sorted({int(limit) for limit in frame.cells["limit"].dropna()})
    if limits:
        rows = " or ".join(map(str, limits))
        sentences.append(
            f"SMOKE RUN: at most {rows} rows of each split where the task's name says so; not a result."
        )
    renamed = frame.cells.loc[frame.cells["splits"] != "", ["task_name", "splits"]].drop_duplicates()
    for task, splits in sorted(renamed.itertuples(index=False)):
        sentences.append(f"{task} does not use its own splits: {splits}.")
    return sentences


def training(frame: Frame) -> list[str]:
    """Say what trained the cells: precision, seeds, hardware."""
    done = frame.cells[frame.cells["status"] == "done"]
    if done.empty:
        return ["No cell finished."]
    seeds = sorted(int(seed) for seed in done["seed"].unique())
    precision = " and ".join(sorted(done["precision"].unique()))
    machines = "; ".join(hardware(frame, done["environment"])) or "hardware that is not recorded"
    cells, numbers = _plural(len(done), "finished cell"), ", ".join(map(str, seeds))
    return [f"{cells}, {_plural(len(seeds), 'seed')} ({numbers}), trained in {precision} on {machines}."]


def timing(frame: Frame) -> list[str]:
    """Say what the headline timings ran under."""
    setting = headline(frame)
    if setting is None:
        return ["No timings."]
    done = timings(frame, setting)
    repeats = sorted({int(count) for count in done.loc[done["status"] == "done", "repeats"]})
    processes = f"; {' or '.join(map(str, repeats))} fresh processes each" if repeats else ""
    batches = ", ".join(str(size) for size in sorted(done["batch_size"].unique()))
    lengths = ", ".join(
        "real lengths" if length != length else f"{length:.0f} tokens"
        for length in sorted(done["length"].unique(), key=lambda length: (length != length, length))
    )
    others = [other.describe() for other in settings(frame) if other != setting]
    also = f" Also timed, in the latency table: {'; '.join(others[:MOST_SETTINGS])}" if others else ""
    also += f" and {len(others) - MOST_SETTINGS} more" if len(others) > MOST_SETTINGS else ""
    machine = f" on {known[0]}" if (known := hardware(frame, [setting.environment])) else ""
    return [
        f"Timed{machine}: {setting.describe()}, batch {batches}, {lengths}{processes}.{also}{'.' if also else ''}"
    ]


def hardware(frame: Frame, environments: Iterable[str]) -> list[str]:
    """Name the machines of environments, as far as they are known."""
    known = dict(zip(frame.environments["environment"], frame.environments["hardware"], strict=True))
    return sorted({known[key] for key in environments if key in known})


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
