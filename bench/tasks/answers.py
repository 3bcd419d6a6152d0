"""Answers of extractive QA: from logits to the best span of the context, its text, and the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics import Judgement, judge
from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

    from bench.encoded import Encoded
    from bench.tasks.arrays import Logits

LONGEST_ANSWER = 64  # tokens

Floats = NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Spans:
    """The best span of each row, ``[rows]`` each.

    Attributes:
        begin: First character of the context; with ``end`` 0 where the context has no tokens.
        end: One past the last character.
        null_difference: Score of having no answer minus score of the span; scores are sums of a start and an end logit.
    """

    begin: NDArray[np.int32]
    end: NDArray[np.int32]
    null_difference: NDArray[np.float32]


def best_spans(
    encoded: Encoded, start_logits: Floats, end_logits: Floats, longest: int = LONGEST_ANSWER
) -> Spans:
    """Find the span with the largest sum of start and end logit among all windows of each row.

    The search is exact over all spans of at most ``longest`` tokens of the context, which is what a list of the n best
    starts and ends approaches as n grows. Ties go to the earliest window, start and end. The null score of a row is its
    smallest among windows, that of ``[CLS]`` as start and end.

    Args:
        encoded: The split, every row with a feature.
        start_logits: ``[features, longest length]``.
        end_logits: The same.
        longest: Tokens of the longest answer.
    """
    spans = _spans(encoded)
    starts, ends = _in_context(encoded, start_logits), _in_context(encoded, end_logits)
    best_end = ends.copy()  # [feature, token]: the best end logit of a span that starts there
    for ahead in range(1, min(longest, ends.shape[1])):
        np.maximum(best_end[:, :-ahead], ends[:, ahead:], out=best_end[:, :-ahead])
    scores = starts + best_end
    features = np.arange(len(scores))
    first = scores.argmax(axis=1)
    score = scores[features, first]
    reach = np.minimum(first[:, None] + np.arange(longest), ends.shape[1] - 1)
    last = reach[features, ends[features[:, None], reach].argmax(axis=1)]
    row_begins = np.searchsorted(encoded.rows, np.arange(len(encoded.ids)))
    chosen = np.lexsort((-score, encoded.rows))[row_begins]
    null = np.minimum.reduceat(start_logits[:, 0] + end_logits[:, 0], row_begins)
    token = np.cumsum(encoded.lengths, dtype=np.int64)[chosen] - encoded.lengths[chosen]
    return Spans(spans[token + first[chosen], 0], spans[token + last[chosen], 1], null - score[chosen])


def judge_logits(task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> Judgement:
    """Cut the best spans out of the original contexts and compare them with the references.

    A task with ``no_answer`` scores may abstain.
    """
    if not isinstance(logits, tuple) or len(np.unique(encoded.rows)) != len(rows):
        raise ValueError(
            f"task {task.name!r} is scored from two arrays of logits, with a feature for every row"
        )
    spans = best_spans(encoded, *logits)
    contexts = rows[task.text[1]][:]
    answers = [
        context[begin:end] for context, begin, end in zip(contexts, spans.begin, spans.end, strict=True)
    ]
    references = [answer["text"] for answer in rows[task.label][:]]
    may_abstain = any(name.startswith("no_answer") for name in task.scores)
    return judge(answers, references, spans.null_difference if may_abstain else None)


def _spans(encoded: Encoded) -> NDArray[np.int32]:
    if encoded.spans is None:
        raise ValueError("answers are found in rows that were encoded for extractive QA")
    return encoded.spans


def _in_context(encoded: Encoded, logits: Floats) -> Floats:
    """Set to minus infinity what is not a token of the context."""
    real = np.arange(logits.shape[1]) < encoded.lengths[:, None]
    context = np.zeros(logits.shape, dtype=bool)
    context[real] = _spans(encoded)[:, 1] > 0
    return np.where(context, logits, -np.inf)
