"""Turn recorded timings into numbers with an interval and named warnings."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from results.record import LatencyRecord

Milliseconds = NDArray[np.float64]
Calls = (
    Milliseconds  # counted calls of the baseline and of the candidate in one process, ``[..., side, call]``
)

Counts = NDArray[np.unsignedinteger[Any]]
Places = NDArray[np.intp]

CONFIDENCE = 0.95
RESAMPLES = 1000
TOGETHER = 16  # timings that are resampled at once: what is made of them stays in the processor's cache
FEW = 8  # numbers of a row up to which rows are sorted side by side

# What makes a number doubtful. The first two are those of pyperf.
SPREAD = 0.10  # standard deviation over mean of the calls of one process
EXTREMES = 0.50  # distance of a call from the median, over the median
DISAGREEMENT = 0.10  # largest over smallest of the processes' medians, less one
FOREIGN_LOAD = 1.0  # load average beyond the threads that were timed: one core busy with something else
# On a large machine others may have this share of the logical cores that the timed threads leave. Two of these are
# often one core of the processor: a quarter of them, spread out, is half of it, and the clock has a core to itself.
FOREIGN_SHARE = 0.25
FEWEST_REPEATS = 3


@dataclass(frozen=True)
class TimingSummary:
    """Statistics of the counted calls of all processes.

    Attributes:
        p50_ms: Of the candidate. The 99th percentile of fewer than 100 calls is close to the slowest of them.
        throughput_per_s: Sequences over the time of all counted calls together.
        speedup: Baseline's time over the candidate's; above 1 the candidate is faster.
        speedup_low: Lower end of its 95 % interval.
        speedup_high: Upper end.
        calls: Counted calls of each side.
        warnings: What makes the numbers doubtful, by name and with the threshold.
    """

    p50_ms: float
    p90_ms: float
    p99_ms: float
    throughput_per_s: float
    baseline_p50_ms: float
    baseline_p90_ms: float
    baseline_p99_ms: float
    baseline_throughput_per_s: float
    speedup: float
    speedup_low: float
    speedup_high: float
    calls: int
    warnings: tuple[str, ...]


def foreign_load(threads: int, cores: int | None = None) -> float:
    """Return the load average beyond the timed threads from which a timing is doubtful.

    Args:
        threads: Timed ones.
        cores: Logical ones of the machine; None where they are not known, and then one busy core is too many.
    """
    return FOREIGN_LOAD if cores is None else max(FOREIGN_LOAD, FOREIGN_SHARE * (cores - threads))


def summarise(record: LatencyRecord, cores: int | None = None) -> TimingSummary:
    """Compute the statistics of a timing that is done; the same record gives the same numbers.

    Args:
        record: Of the timing.
        cores: Logical ones of its machine, where they are known; a warning of load depends on them.

    Raises:
        ValueError: If the record is not done, or holds calls that cannot be.
    """
    return summarise_all([record], {} if cores is None else {record.environment: cores})[0]


def summarise_all(
    records: Sequence[LatencyRecord], cores: Mapping[str, int] | None = None
) -> list[TimingSummary]:
    """Compute the statistics of many timings, those with equally many calls together.

    Args:
        records: Of the timings.
        cores: Id of an environment -> its logical cores, where they are known; a warning of load depends on them.

    Raises:
        ValueError: If a record is not done, or holds calls that cannot be.
    """
    counted = [_all_counted(record) for record in records]
    by_shape: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for place, processes in enumerate(counted):
        by_shape[tuple(calls.shape[1] for calls in processes)].append(place)
    found: dict[int, TimingSummary] = {}
    for places in by_shape.values():
        for start in range(0, len(places), TOGETHER):
            some = places[start : start + TOGETHER]
            stacked = [np.stack(calls) for calls in zip(*(counted[place] for place in some), strict=True)]
            found |= zip(
                some, _summaries([records[place] for place in some], stacked, cores or {}), strict=True
            )
    return [found[place] for place in range(len(records))]


def _summaries(
    records: Sequence[LatencyRecord], processes: Sequence[Calls], cores: Mapping[str, int]
) -> Iterator[TimingSummary]:
    """Sum up records of one shape; ``processes`` holds ``[record, side, call]`` of each process."""
    calls = np.concatenate(processes, axis=2)
    percentiles = np.percentile(calls, [50, 90, 99], axis=2)
    per_second = 1000 / calls.mean(axis=2)
    speedups, noise = _speedups(processes), _Noise.of(processes)
    for place, record in enumerate(records):
        (baseline_p50, p50), (baseline_p90, p90), (baseline_p99, p99) = percentiles[:, place].tolist()
        batch = record.workload.batch_size
        speedup, low, high = speedups[:, place].tolist()
        yield TimingSummary(
            p50_ms=p50,
            p90_ms=p90,
            p99_ms=p99,
            throughput_per_s=batch * float(per_second[place, 1]),
            baseline_p50_ms=baseline_p50,
            baseline_p90_ms=baseline_p90,
            baseline_p99_ms=baseline_p99,
            baseline_throughput_per_s=batch * float(per_second[place, 0]),
            speedup=speedup,
            speedup_low=low,
            speedup_high=high,
            calls=calls.shape[2],
            warnings=tuple(_warnings(record, noise[place], cores.get(record.environment))),
        )


def _all_counted(record: LatencyRecord) -> list[Calls]:
    if record.status != "done" or not record.repeats:
        raise ValueError(
            f"timing {record.id} is {record.status} with {len(record.repeats)} repeats; there is nothing to sum up"
        )
    return [_counted(record, index) for index in range(len(record.repeats))]


def _counted(record: LatencyRecord, index: int) -> Calls:
    """Return the counted calls of a process, ``[side, call]``: the baseline, then the candidate."""
    repeat = record.repeats[index]
    where = f"timing {record.id}, repeat {index + 1}"
    if len(repeat.baseline_ms) != len(repeat.candidate_ms):
        counts = (
            f"{len(repeat.baseline_ms)} calls of the baseline, {len(repeat.candidate_ms)} of the candidate"
        )
        raise ValueError(f"{where}: {counts}")
    if len(repeat.baseline_ms) <= repeat.warmup:
        raise ValueError(f"{where}: {len(repeat.baseline_ms)} calls, and {repeat.warmup} of them are warm-up")
    calls = np.array([repeat.baseline_ms, repeat.candidate_ms])
    if not (calls.min() > 0 and calls.max() < np.inf):  # NaN is neither
        raise ValueError(f"{where}: a call took no time, or none that is a number")
    return calls[:, repeat.warmup :]


def _speedups(processes: Sequence[Calls]) -> Milliseconds:
    """Estimate the ratios of the medians and their intervals, ``[ratio or end, record]``.

    A ratio is taken inside each process, where both sides had the same luck; the median over processes (of the
    logarithms, so that swapping the sides inverts it) keeps one unlucky process from deciding. The bootstrap draws
    processes, then calls within each: calls of one process are not independent of each other. In simulations such
    intervals hold the truth in at least 93 of 100 cases; with three processes that disagree by several per cent, in 83.
    """
    medians = np.stack([_median(calls) for calls in processes], axis=-1)
    logs = np.log(medians[:, 0] / medians[:, 1])
    resampled = np.empty((len(logs), len(processes), RESAMPLES))
    draws = _draws(tuple(calls.shape[2] for calls in processes))
    for calls, (places, resamples, counts) in zip(processes, draws, strict=True):
        drawn = _medians_of_draws(calls, counts)
        resampled[:, places, resamples] = np.log(drawn[:, 0] / drawn[:, 1])
    tail = (1 - CONFIDENCE) / 2
    ends = np.quantile(_median(np.moveaxis(resampled, 1, -1)), [tail, 1 - tail], axis=1)
    found: Milliseconds = np.exp(np.stack([_median(logs), *ends]))
    return found


@lru_cache(maxsize=16)
def _draws(calls: tuple[int, ...]) -> list[tuple[Places, Places, Counts]]:
    """Draw processes, then calls of each.

    Returns:
        For each process, where it was drawn: as which of a resample's processes, and in which resample; then how often
        each of its calls was drawn there, ``[call, draw]``.
    """
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(calls), size=(RESAMPLES, len(calls)))
    found = []
    for process, count in enumerate(calls):
        resamples, places = np.nonzero(drawn == process)
        chosen = rng.integers(count, size=(len(resamples), count))
        rows = np.arange(len(chosen))[:, None]
        counts = np.zeros(chosen.shape, dtype=np.min_scalar_type(count))
        np.add.at(counts, (rows, chosen), 1)
        found.append((places, resamples, np.ascontiguousarray(counts.T)))
    return found


def _medians_of_draws(calls: Calls, counts: Counts) -> Milliseconds:
    """Return the median of every draw, ``[record, side, draw]``.

    A draw is sorted by nobody: the calls are, once, and then how many of the draw lie up to each of them says which of
    them stands in the middle. ``tests/results/test_timing.py`` compares it with sorting.

    Args:
        calls: ``[record, side, call]``.
        counts: How often each call was drawn, ``[call, draw]``.
    """
    count = calls.shape[-1]
    order = np.argsort(calls, axis=-1)
    ordered = np.take_along_axis(calls, order, axis=-1)
    up_to = np.zeros((*calls.shape[:-1], counts.shape[1]), dtype=counts.dtype)
    # how many calls stand before either middle of a draw
    low, high = np.zeros_like(up_to), np.zeros_like(up_to)
    for place in range(count):
        up_to += counts[order[..., place]]
        low += up_to <= (count - 1) // 2
        high += up_to <= count // 2
    medians: Milliseconds = (_taken(ordered, low) + _taken(ordered, high)) / 2
    return medians


def _taken(ordered: Calls, places: Counts) -> Milliseconds:
    """Take ``[record, side, place]`` at ``[record, side, draw]``; sooner than ``np.take_along_axis``."""
    starts = ordered.shape[-1] * np.arange(ordered[..., 0].size).reshape(*ordered.shape[:-1], 1)
    taken: Milliseconds = ordered.ravel()[starts + places]
    return taken


def _median(values: Milliseconds) -> Milliseconds:
    """Return the median over the last axis: of thousands of short rows, far sooner than ``np.median``."""
    count = values.shape[-1]
    ordered = _exchanged(values) if count <= FEW else np.moveaxis(np.sort(values, axis=-1), -1, 0)
    low, high = ordered[(count - 1) // 2], ordered[count // 2]
    median: Milliseconds = high if count % 2 else (low + high) / 2
    return median


def _exchanged(values: Milliseconds) -> list[Milliseconds]:
    """Sort the last axis, all rows at once, by exchanging neighbours that stand in the wrong order."""
    ordered = list(np.moveaxis(values, -1, 0))
    for turn in range(len(ordered)):
        for place in range(turn % 2, len(ordered) - 1, 2):
            one, next_ = ordered[place : place + 2]
            ordered[place : place + 2] = np.minimum(one, next_), np.maximum(one, next_)
    return ordered


@dataclass(frozen=True)
class _Noise:
    """How unsteady a timing was; sides are the baseline, the candidate and their ratio.

    Attributes:
        spread: Largest standard deviation of a process over its mean, by side.
        extreme: Farthest call of a process from its median, over the median, by side.
        apart: Largest over smallest median of the processes, less one, by side.
    """

    spread: Sequence[float]
    extreme: Sequence[float]
    apart: Sequence[float]

    @classmethod
    def of(cls, processes: Sequence[Calls]) -> list[_Noise]:
        """Return that of every record."""
        sides = [np.concatenate([calls, calls[:, :1] / calls[:, 1:]], axis=1) for calls in processes]
        medians = np.stack([_median(calls) for calls in sides])
        extremes = [
            np.abs(calls / middle[..., None] - 1).max(axis=-1)
            for calls, middle in zip(sides, medians, strict=True)
        ]
        steadier = np.concatenate([medians[..., :2], medians[..., :1] / medians[..., 1:2]], axis=-1)
        return [
            cls(*one)
            for one in zip(
                np.max([_spread(calls) for calls in sides], axis=0).tolist(),
                np.max(extremes, axis=0).tolist(),
                (steadier.max(axis=0) / steadier.min(axis=0) - 1).tolist(),
                strict=True,
            )
        ]


def _warnings(record: LatencyRecord, noise: _Noise, cores: int | None) -> Iterator[str]:
    """Name what makes a record doubtful."""
    # at real lengths calls differ by their batch; what both sides share is no noise
    sides = {"ratio": 2} if record.workload.length is None else {"baseline": 0, "candidate": 1}
    for side, place in sides.items():
        if (spread := noise.spread[place]) >= SPREAD:
            yield f"spread: standard deviation of the {side} {spread:.0%} of its mean (threshold {SPREAD:.0%})"
    for side, place in sides.items():
        if (extreme := noise.extreme[place]) >= EXTREMES:
            yield f"extremes: a call of the {side} {extreme:.0%} from the median (threshold {EXTREMES:.0%})"
    for name, apart in zip(("baseline", "candidate", "speed-up"), noise.apart, strict=True):
        if apart >= DISAGREEMENT:
            yield f"repeats disagree: median {name} differs by {apart:.0%} (threshold {DISAGREEMENT:.0%})"
    if len(record.repeats) < FEWEST_REPEATS:
        yield f"too few repeats: {len(record.repeats)} (threshold {FEWEST_REPEATS})"
    load = max(max(repeat.load_average) for repeat in record.repeats) - record.threads
    if load >= (threshold := foreign_load(record.threads, cores)):
        yield f"load average high: {load:.1f} beyond our {record.threads} thread(s) (threshold {threshold:.1f})"


def _spread(calls: Milliseconds) -> Milliseconds:
    """Return the standard deviation over the mean; 0 for one call."""
    if calls.shape[-1] == 1:
        return np.zeros(calls.shape[:-1])
    relative: Milliseconds = calls.std(axis=-1, ddof=1) / calls.mean(axis=-1)
    return relative
