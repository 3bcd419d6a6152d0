"""Features of extractive QA: a question with a window of its context, as many windows as the context needs.

Consecutive windows overlap, so that an answer that one of them cuts lies whole in another. Tokens of the context know
the characters that they cover; answers are found and cut by these offsets alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bench.errors import UserError
from bench.tasks.sequences import row_ids
from bench.tasks.task import Task

if TYPE_CHECKING:
    from datasets import Dataset
    from tokenizers import Tokenizer

    from bench.tasks.arrays import Arrays

OVERLAP = 128  # tokens of the context that consecutive windows share; three quarters of a window, where that is less
UNANSWERABLE = (-1, -1)  # lies in no window
TEXTS_AT_ONCE = 4096

Ints = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class _Tokens:
    """Tokens of one text ``[tokens]`` and the first and one past the last character of each ``[tokens, 2]``."""

    ids: Ints
    spans: Ints


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


class _Feature(NamedTuple):
    """One window of a row, or a column of many.

    Attributes:
        row: Its row.
        before: Tokens before the window.
        onward: Tokens from the window's first on, special ones included.
        start_position: First token of the answer, 0 where the window does not hold it.
        end_position: Last token of the answer.
    """

    row: Any
    before: Any
    onward: Any
    start_position: Any
    end_position: Any


def encode_windows(task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
    """Tokenise questions and contexts and lay out their windows end to end.

    A question takes at most half of a window; a longer one is cut.

    Args:
        task: Names the columns and the length of a window with its question.
        rows: One split, checked (``bench.rows``).
        tokenizer: Without padding or truncation of its own.
        training: Find where the answers are; a row with none of them in its context gets no feature.

    Returns:
        ``input_ids`` and ``token_type_ids`` ``[tokens]``, ``spans`` ``[tokens, 2]``, ``lengths`` and ``rows``
        ``[features]``, ``ids`` ``[rows]``; for training ``start_positions`` and ``end_positions`` ``[features]``:
        tokens of the feature, 0 (``[CLS]``) where it does not hold the answer.

    Raises:
        UserError: If no row has an answer in its context.
    """
    question_column, context_column = task.text
    questions = _tokenize(tokenizer, rows[question_column][:])
    contexts = _tokenize(tokenizer, rows[context_column][:])
    golds = _golds(task, rows, contexts) if training else [UNANSWERABLE] * len(rows)
    layout = _Layout.of(tokenizer)
    space = task.max_length - len(layout.before) - len(layout.between) - len(layout.after)
    none = np.zeros((task.max_length, 2), dtype=np.int32)
    tokens, spans = [], []
    features = []
    for row, (question, context, gold) in enumerate(zip(questions, contexts, golds, strict=True)):
        if gold is None:
            continue
        asked = question.ids[: space // 2]
        head = np.concatenate([layout.before, asked, layout.between])
        for start, stop in _windows(len(context.ids), space - len(asked)):
            tokens += [head, context.ids[start:stop], layout.after]
            spans += [none[: len(head)], context.spans[start:stop], none[: len(layout.after)]]
            inside = start <= gold[0] and gold[1] < stop
            first, last = (token - start + len(head) for token in gold) if inside else (0, 0)
            features.append(_Feature(row, len(head), stop - start + len(layout.after), first, last))
    if not features:
        raise UserError(
            f"task {task.name!r}: no training row has an answer that is in its context at its offset"
        )
    columns = _Feature(*np.array(features, dtype=np.int32).T)
    arrays: Arrays = {
        "input_ids": np.concatenate(tokens),
        "token_type_ids": np.repeat(
            np.tile(np.array(layout.types, dtype=np.int8), len(features)),
            np.stack([columns.before, columns.onward], axis=1).ravel(),
        ),
        "spans": np.concatenate(spans),
        "lengths": columns.before + columns.onward,
        "rows": columns.row.copy(),
        "ids": row_ids(task, rows),
    }
    if training:
        arrays["start_positions"] = columns.start_position.astype(np.int64)
        arrays["end_positions"] = columns.end_position.astype(np.int64)
    return arrays


def _tokenize(tokenizer: Tokenizer, texts: Sequence[str]) -> list[_Tokens]:
    """Tokenise each text without special tokens; repeated texts are tokenised once."""
    known: dict[str, _Tokens] = {}
    distinct = list(dict.fromkeys(texts))
    for start in range(0, len(distinct), TEXTS_AT_ONCE):
        part = distinct[start : start + TEXTS_AT_ONCE]
        for text, encoding in zip(part, tokenizer.encode_batch(part, add_special_tokens=False), strict=True):
            spans = np.array(encoding.offsets, dtype=np.int32).reshape(-1, 2)
            known[text] = _Tokens(np.array(encoding.ids, dtype=np.int32), spans)
    return [known[text] for text in texts]


def _windows(tokens: int, room: int) -> Iterator[tuple[int, int]]:
    """Yield the first and one past the last token of each window of a context."""
    step = room - min(OVERLAP, room * 3 // 4)
    start = 0
    while start + room < tokens:
        yield start, start + room
        start += step
    yield start, tokens


def _golds(task: Task, rows: Dataset, contexts: list[_Tokens]) -> list[tuple[int, int] | None]:
    """Return the first and last token of each row's answer; None where it is not in the context at its offset."""
    return [
        _gold(text, tokens.spans, answers["text"], answers["answer_start"])
        for text, tokens, answers in zip(rows[task.text[1]][:], contexts, rows[task.label][:], strict=True)
    ]


def _gold(context: str, spans: Ints, answers: list[str], starts: list[int]) -> tuple[int, int] | None:
    """Find the tokens that touch the first answer that is where it says it is."""
    if not answers:
        return UNANSWERABLE
    for answer, start in zip(answers, starts, strict=True):
        stop = start + len(answer)
        first = int(np.searchsorted(spans[:, 1], start, side="right"))
        last = int(np.searchsorted(spans[:, 0], stop, side="left")) - 1
        if start >= 0 and context[start:stop] == answer and first <= last:
            return first, last
    return None
