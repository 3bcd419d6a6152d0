"""Answers of extractive QA: from logits to the best span of the context, its text, and the scores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics import answer_exact_match, answer_f1, best_threshold
from bench.tasks.columns import texts
from bench.tasks.qa import read_answers
from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset

    from bench.data import Encoded

LONGEST_ANSWER = 64  # tokens
MEASURES = {"exact_match": answer_exact_match, "f1": answer_f1}

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
    assert encoded.spans is not None
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
    begin, end = encoded.spans[token + first[chosen], 0], encoded.spans[token + last[chosen], 1]
    return Spans(begin, end, null - score[chosen])


def score_answers(
    task: Task, rows: Dataset, encoded: Encoded, start_logits: Floats, end_logits: Floats
) -> dict[str, float]:
    """Compute exact match and F1 of the answers, cut from the original text.

    A task with ``no_answer`` scores may abstain: where the null score is larger than the span's, the answer is empty.
    ``best_exact_match`` and ``best_f1`` are those at the threshold of the null score difference that serves them best.
    Scores of answerable or unanswerable rows are left out where a split has none.
    """
    if len(np.unique(encoded.rows)) != len(rows):
        raise ValueError(
            f"task {task.name!r}: {len(rows)} rows, features of {len(np.unique(encoded.rows))}; encode all"
        )
    spans = best_spans(encoded, start_logits, end_logits)
    contexts = texts(task, rows, task.text[1])
    answers = [
        context[begin:end] for context, begin, end in zip(contexts, spans.begin, spans.end, strict=True)
    ]
    references = [answer["text"] for answer in read_answers(task, rows)]
    answerable = np.array([len(reference) > 0 for reference in references])
    abstains = any(name.startswith("no_answer") for name in task.scores)
    found: dict[str, float] = {}
    for name, measure in MEASURES.items():
        answered = np.array([measure(*pair) for pair in zip(answers, references, strict=True)])
        abstained = np.array([measure("", reference) for reference in references])
        values = np.where(spans.null_difference > 0, abstained, answered) if abstains else answered
        found[name] = float(values.mean())
        found[f"best_{name}"], _ = best_threshold(answered, abstained, spans.null_difference)
        for kind, members in (("has_answer", answerable), ("no_answer", ~answerable)):
            if members.any():
                found[f"{kind}_{name}"] = float(values[members].mean())
    return {name: found[name] for name in task.scores if name in found}


def _in_context(encoded: Encoded, logits: Floats) -> Floats:
    """Set to minus infinity what is not a token of the context."""
    assert encoded.spans is not None
    real = np.arange(logits.shape[1]) < encoded.lengths[:, None]
    context = np.zeros(logits.shape, dtype=bool)
    context[real] = encoded.spans[:, 1] > 0
    return np.where(context, logits, -np.inf)
