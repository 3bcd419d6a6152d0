"""Batches from length buckets: little of them is padding, and only a few lengths occur.

The lengths are the upper edges of at most ``MAX_BUCKETS`` buckets, chosen by dynamic programming, so that a captured
step needs one graph per edge. The order of the rows is a function of (lengths, batch size, seed) alone, on every
platform.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.seeds import derive

MAX_BUCKETS = 12  # 8 leave 14 % padding on SST-2, 12 leave 9 % at most on every GLUE task

Lengths = NDArray[np.integer[Any]]
Indices = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Batch:
    """Rows to process together.

    Attributes:
        indices: Positions of the rows (features) in the split, ``[batch]``.
        length: Tokens that each of them is padded to.
    """

    indices: Indices
    length: int


def bucket_edges(lengths: Lengths, batch_size: int, max_buckets: int = MAX_BUCKETS) -> list[int]:
    """Choose the lengths to pad to, at most ``max_buckets``, that leave the least padding in an epoch.

    A row is padded to the first edge that is not below its length, or to a later one where its bucket's last batch does
    not fill. Dynamic programming over the distinct lengths: ``least[j]`` is the least number of positions that the full
    batches of the rows up to the j-th distinct length take in the buckets considered so far.

    Returns:
        Edges in ascending order; the last is the longest length.
    """
    distinct, counts = np.unique(lengths, return_counts=True)
    if distinct.size == 0:
        raise ValueError("there are no rows to put into buckets")
    batched = _in_full_batches(np.concatenate([[0], np.cumsum(counts)]), batch_size)
    least = distinct * batched[1:]
    cuts = []
    for _ in range(1, min(max_buckets, distinct.size)):
        earlier = np.concatenate([[0], least])  # [i]: positions of the i shortest lengths, in earlier buckets
        cut = np.empty(distinct.size, dtype=np.int64)
        for j, edge in enumerate(distinct):
            positions = earlier[: j + 1] + edge * (batched[j + 1] - batched[: j + 1])
            cut[j] = positions.argmin()
            least[j] = positions[cut[j]]
        cuts.append(cut)
    edges = [int(distinct[-1])]
    end = distinct.size
    for cut in reversed(cuts):
        end = int(cut[end - 1])
        if end == 0:
            break
        edges.append(int(distinct[end - 1]))
    return edges[::-1]


def training_batches(lengths: Lengths, *, batch_size: int, seed: int) -> Iterator[Batch]:
    """Yield full batches for ever, epoch after epoch, each from one bucket, in random order.

    Args:
        lengths: Tokens of each row.
        batch_size: Rows of a batch; all rows, where there are fewer.
        seed: Decides the order.
    """
    size = min(batch_size, len(lengths))
    edges = bucket_edges(lengths, size)
    for epoch in count():
        yield from _epoch(lengths, edges, size, derive(seed, "epoch", str(epoch)))


def evaluation_batches(lengths: Lengths, batch_size: int) -> Iterator[Batch]:
    """Yield every row exactly once, the longest first, padded to the edges of buckets."""
    edges = np.array(bucket_edges(lengths, 1))
    order = np.argsort(-lengths.astype(np.int64), kind="stable")
    for start in range(0, len(order), batch_size):
        indices = order[start : start + batch_size]
        yield Batch(indices, int(edges[np.searchsorted(edges, lengths[indices[0]])]))


def padding_share(lengths: Lengths, batch_size: int) -> float:
    """Return the share of positions that is padding in one epoch of training."""
    size = min(batch_size, len(lengths))
    batches = _epoch(lengths, bucket_edges(lengths, size), size, seed=0)
    tokens = sum(int(lengths[batch.indices].sum()) for batch in batches)
    return 1 - tokens / sum(batch.length * size for batch in batches)


def _epoch(lengths: Lengths, edges: list[int], batch_size: int, seed: int) -> list[Batch]:
    """Divide the rows of one epoch into batches, all of them full."""
    random = np.random.Philox(key=seed)
    kept = _drop_remainder(_permutation(len(lengths), random), lengths, batch_size, random)
    bucket = np.searchsorted(edges, lengths[kept])
    batches = []
    waiting = kept[:0]
    for number, edge in enumerate(edges):
        waiting = np.concatenate([waiting, kept[bucket == number]])
        full = len(waiting) // batch_size * batch_size
        batches += [Batch(indices, edge) for indices in waiting[:full].reshape(-1, batch_size)]
        waiting = waiting[full:]  # too few for a batch: they move up to the next longer bucket
    return [batches[position] for position in _permutation(len(batches), random)]


def _drop_remainder(order: Indices, lengths: Lengths, batch_size: int, random: np.random.Philox) -> Indices:
    """Leave out what does not fill a batch, spread evenly over the rows sorted by length.

    Every row is as likely to be left out as any other, and every epoch has the same mix of lengths.
    """
    remainder = len(order) % batch_size
    offset = int(random.random_raw()) % len(order)
    ranks = (np.arange(remainder) * len(order) + offset) // max(remainder, 1)
    by_length = np.argsort(lengths[order], kind="stable")
    return np.delete(order, by_length[ranks])


def _in_full_batches(rows_before: Indices, batch_size: int) -> Indices:
    """Count how many of the shortest rows fill whole batches in every epoch, once the remainder is left out."""
    rows = rows_before[-1]
    dropped_at_most = -(-rows_before * (rows % batch_size) // rows)
    batches: Indices = (rows_before - dropped_at_most) // batch_size
    return batches * batch_size


def _permutation(size: int, random: np.random.Philox) -> Indices:
    """Permute by sorting raw bits, which numpy keeps the same from version to version."""
    return np.argsort(random.random_raw(size), kind="stable")
