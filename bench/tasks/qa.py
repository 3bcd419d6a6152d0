"""Features of extractive QA: a question with a window of its context, as many windows as the context needs.

Consecutive windows overlap, so that an answer that one of them cuts lies whole in another. Tokens of the context know
the characters that they cover; answers are found and cut by these offsets alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.tasks.columns import require_columns, row_ids, texts
from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer

    from bench.tasks.heads import Arrays

OVERLAP = 128  # tokens of the context that consecutive windows share; three quarters of a window, where that is less
UNANSWERABLE = (-1, -1)  # lies in no window
TEXTS_AT_ONCE = 4096

Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Layout:
    """Special tokens: ``before`` question ``between`` context ``after``; token types of the two texts."""

    before: Ints
    between: Ints
    after: Ints
    types: tuple[int, int]

    @classmethod
    def of(cls, tokenizer: Tokenizer) -> _Layout:
        """Read the layout off an encoded pair of words."""
        probe = tokenizer.encode("a", "a")
        ids, sides = np.array(probe.ids, dtype=np.int32), probe.sequence_ids
        question, context = sides.index(0), sides.index(1)
        between = ids[question + sides.count(0) : context]
        types = (probe.type_ids[question], probe.type_ids[context])
        return cls(ids[:question], between, ids[context + sides.count(1) :], types)


def encode_windows(task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
    """Tokenise questions and contexts and lay out their windows end to end.

    A question takes at most half of a window; a longer one is cut.

    Args:
        task: Names the columns and the length of a window with its question.
        rows: One split.
        tokenizer: Without padding or truncation of its own.
        training: Find the positions of the answers; a row whose answers are not in its context gets no feature.

    Returns:
        ``input_ids`` and ``token_type_ids`` ``[tokens]``, ``spans`` ``[tokens, 2]``, ``lengths`` and ``rows``
        ``[features]``, ``ids`` ``[rows]``; for training ``start_positions`` and ``end_positions`` ``[features]``: tokens
        of the feature, 0 (``[CLS]``) where it does not hold the answer.
    """
    question_column, context_column = task.text
    require_columns(task, rows, (*task.text, task.label) if training else task.text)
    contexts = texts(task, rows, context_column)
    encoded_contexts = _tokenize(tokenizer, contexts)
    questions = _tokenize(tokenizer, texts(task, rows, question_column))
    golds = _golds(task, rows, contexts, encoded_contexts) if training else [UNANSWERABLE] * len(rows)
    layout = _Layout.of(tokenizer)
    space = task.max_length - len(layout.before) - len(layout.between) - len(layout.after)
    tokens, spans = [], []
    features = []  # row, tokens before the window, tokens from its first on, start position, end position
    no_spans = np.zeros((task.max_length, 2), dtype=np.int32)
    for row, ((question, _), (context, covered), gold) in enumerate(
        zip(questions, encoded_contexts, golds, strict=True)
    ):
        if gold is None:
            continue
        asked = question[: space // 2]
        head = np.concatenate([layout.before, asked, layout.between])
        for start, stop in _windows(len(context), space - len(asked)):
            tokens += [head, context[start:stop], layout.after]
            spans += [no_spans[: len(head)], covered[start:stop], no_spans[: len(layout.after)]]
            shift = len(head) - start
            first, last = (
                (position + shift for position in gold) if start <= gold[0] and gold[1] < stop else (0, 0)
            )
            features.append((row, len(head), stop - start + len(layout.after), first, last))
    table = np.array(features, dtype=np.int32).reshape(-1, 5)
    arrays: Arrays = {
        "input_ids": np.concatenate(tokens),
        "token_type_ids": np.repeat(np.tile(np.int8(layout.types), len(table)), table[:, 1:3].ravel()),
        "spans": np.concatenate(spans),
        "lengths": table[:, 1] + table[:, 2],
        "rows": table[:, 0].copy(),
        "ids": row_ids(task, rows),
    }
    targets: Arrays = {
        "start_positions": table[:, 3].astype(np.int64),
        "end_positions": table[:, 4].astype(np.int64),
    }
    return arrays | targets if training else arrays


def read_answers(task: Task, rows: Dataset) -> list[dict[str, list[Any]]]:
    """Return the reference answers of every row: ``text`` and ``answer_start``, empty lists if it is unanswerable.

    Raises:
        UserError: Naming the first row that does not hold them.
    """
    require_columns(task, rows, [task.label])
    answers: list[Any] = rows.select_columns([task.label])[:][task.label]
    for row, answer in enumerate(answers):
        if not isinstance(answer, dict) or not _is_sound(answer.get("text"), answer.get("answer_start")):
            raise UserError(
                f"task {task.name!r}: row {row}, column {task.label!r} needs lists 'text' and 'answer_start'"
            )
    return answers


def _is_sound(found: Any, starts: Any) -> bool:
    if not isinstance(found, list) or not isinstance(starts, list) or len(found) != len(starts):
        return False
    return all(isinstance(text, str) for text in found) and all(isinstance(start, int) for start in starts)


def _tokenize(tokenizer: Tokenizer, values: Sequence[str]) -> list[tuple[Ints, Ints]]:
    """Return the tokens of each text and the characters that they cover; repeated texts are tokenised once."""
    known: dict[str, tuple[Ints, Ints]] = {}
    distinct = list(dict.fromkeys(values))
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        part = distinct[start : start + TEXTS_AT_ONCE]
        for text, encoding in zip(part, tokenizer.encode_batch(part, add_special_tokens=False), strict=True):
            spans = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
            known[text] = np.array(encoding.ids, dtype=np.int32), spans
    return [known[text] for text in values]


def _windows(tokens: int, room: int) -> Iterator[tuple[int, int]]:
    """Yield the first and one past the last token of each window of a context."""
    step = room - min(OVERLAP, room * 3 // 4)
    start = 0
    while start + room < tokens:
        yield start, start + room
        start += step
    yield start, tokens


def _golds(
    task: Task, rows: Dataset, contexts: list[str], encoded: list[tuple[Ints, Ints]]
) -> list[tuple[int, int] | None]:
    """Return the first and last token of each row's answer; None where it is not in the context at its offset."""
    answers = read_answers(task, rows)
    return [
        _gold(context, spans, zip(answer["text"], answer["answer_start"], strict=True))
        if answer["text"]
        else UNANSWERABLE
        for context, (_, spans), answer in zip(contexts, encoded, answers, strict=True)
    ]


def _gold(context: str, spans: Ints, answers: Iterator[tuple[str, int]]) -> tuple[int, int] | None:
    """Find the tokens that touch the first answer that is where it says it is."""
    for text, start in answers:
        stop = start + len(text)
        if text and start >= 0 and context[start:stop] == text:
            first = int(np.searchsorted(spans[:, 1], start, side="right"))
            last = int(np.searchsorted(spans[:, 0], stop, side="left")) - 1
            if first <= last:
                return first, last
    return None
