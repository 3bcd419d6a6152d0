from __future__ import annotations

import logging

import numpy as np
import pytest
from datasets import Dataset
from wordpiece import word_tokenizer

from bench.data import encode
from bench.encoded import Encoded
from bench.errors import UserError
from bench.tasks.qa import OVERLAP
from bench.tasks.task import Source, Task

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,!?()éß$'-"
CONTEXT = (
    "The 2008 earthquake, measured at 8.0 Ms, occurred at 02:28 in Sichuan (China); it killed 69,197 people."
)
NO_ANSWER = {"text": [], "answer_start": []}


def make_task(max_length: int = 40) -> Task:
    return Task(
        name="toy-squad",
        summary="",
        head="extractive-qa",
        source=Source(kind="directory", path="toy"),
        text=("question", "context"),
        label="answers",
        id="id",
        splits={"train": "train", "validation": "validation"},
        main_score="f1",
        scores=("f1", "exact_match"),
        max_length=max_length,
        licence="none",
        citation="none",
    )


def answer(context: str, text: str) -> dict:
    return {"text": [text], "answer_start": [context.index(text)]}


def make_rows(*rows: tuple[str, str, dict]) -> Dataset:
    questions, contexts, answers = zip(*rows, strict=True)
    return Dataset.from_dict(
        {
            "id": [f"q{row}" for row in range(len(rows))],
            "question": questions,
            "context": contexts,
            "answers": answers,
        }
    )


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer([CONTEXT.lower(), "where when did the earthquake happen"], letters=LETTERS)


def features(encoded: Encoded) -> list[dict]:
    """Take the flat arrays apart, feature by feature."""
    found = []
    for feature, length in enumerate(encoded.lengths.tolist()):
        start = int(encoded.tensors["starts"][feature])
        part = slice(start, start + length)
        found.append(
            {
                "row": int(encoded.rows[feature]),
                "ids": encoded.tensors["input_ids"][part].tolist(),
                "types": encoded.tensors["token_type_ids"][part].tolist(),
                "spans": encoded.spans[part],
            }
        )
    return found


@pytest.mark.parametrize("max_length", [40, 64, 384])
def test_windows_slide_over_the_context_token_by_token(tokenizer, max_length: int) -> None:
    context = " ".join([CONTEXT] * 30)
    question = "When did the earthquake happen?"
    encoded = encode(
        make_task(max_length), make_rows((question, context, NO_ANSWER)), tokenizer, cache=None, key="k"
    )
    asked = tokenizer(question, add_special_tokens=False)["input_ids"]
    whole = tokenizer(context, add_special_tokens=False, return_offsets_mapping=True)
    tokens, offsets = whole["input_ids"], whole["offset_mapping"]
    start_id, end_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    room = max_length - 3 - len(asked)
    found, first, no_span = features(encoded), 0, (0, 0)
    while True:  # one window after the other; each begins `overlap` tokens before the last one's end
        window = slice(first, first + room)
        one = found.pop(0)
        assert one["ids"] == [start_id, *asked, end_id, *tokens[window], end_id]
        assert one["types"] == [0] * (len(asked) + 2) + [1] * (len(tokens[window]) + 1)
        spans = [no_span] * (len(asked) + 2) + offsets[window] + [no_span]
        assert [tuple(span) for span in one["spans"].tolist()] == spans
        if first + room >= len(tokens):
            break
        first += room - min(OVERLAP, room * 3 // 4)
    assert first > 0
    assert found == []


def test_consecutive_windows_share_128_tokens_at_length_384(tokenizer) -> None:
    rows = make_rows(("Where?", " ".join([CONTEXT] * 40), NO_ANSWER))
    first, second, *_ = features(encode(make_task(384), rows, tokenizer, cache=None, key="k"))
    shared = {tuple(span) for span in first["spans"].tolist()} & {
        tuple(span) for span in second["spans"].tolist()
    }
    assert len(shared - {(0, 0)}) == 128


@pytest.mark.parametrize("max_length", [8, 40])
def test_a_question_longer_than_a_window_leaves_half_of_it_to_the_context(tokenizer, max_length: int) -> None:
    rows = make_rows(("where " * 500, CONTEXT, answer(CONTEXT, "Sichuan")))
    encoded = encode(make_task(max_length), rows, tokenizer, cache=None, key="k", training=True)
    assert encoded.lengths.max() <= max_length
    covered = {tuple(span) for one in features(encoded) for span in one["spans"].tolist()} - {(0, 0)}
    whole = tokenizer(CONTEXT, add_special_tokens=False, return_offsets_mapping=True)["offset_mapping"]
    assert covered == set(whole)
    assert (encoded.targets("start_positions") > 0).any()


def test_texts_without_tokens_make_one_feature(tokenizer) -> None:
    rows = make_rows(("", "", NO_ANSWER), ("Where?", " \n ", NO_ANSWER), ("", "Sichuan", NO_ANSWER))
    encoded = encode(make_task(), rows, tokenizer, cache=None, key="k", training=True)
    assert encoded.rows.tolist() == [0, 1, 2]
    assert encoded.targets("start_positions").tolist() == [0, 0, 0]


@pytest.mark.parametrize("text", ["2008", "8.0 Ms", "Sichuan (China)", "69,197", "The 2008", "people."])
@pytest.mark.parametrize("max_length", [24, 40])
def test_positions_cut_the_answer_out_of_the_original_text(tokenizer, text: str, max_length: int) -> None:
    context = f"{CONTEXT} It was in May. " * 3
    rows = make_rows(("When?", context, answer(context, text)))
    encoded = encode(make_task(max_length), rows, tokenizer, cache=None, key="k", training=True)
    holding = 0
    for one, first, last in zip(
        features(encoded), encoded.targets("start_positions"), encoded.targets("end_positions"), strict=True
    ):
        begin, end = context.index(text), context.index(text) + len(text)
        spans = [tuple(span) for span in one["spans"].tolist() if span[1] > 0]
        whole = spans[0][0] <= begin and end <= spans[-1][1]
        assert (first > 0) == whole
        if whole:
            assert context[one["spans"][first][0] : one["spans"][last][1]] == text
            holding += 1
        else:
            assert (first, last) == (0, 0)
    assert 0 < holding < len(features(encoded))


@pytest.mark.parametrize(
    ("context", "text"),
    [
        ("Im Café saß Zoe\u0308y allein", "Zoe\u0308y"),  # a combining mark that lower-casing drops
        ("日本の首都は東京です", "東京"),  # ideographs are tokens of their own
        ("She likes 🎬 and 🎭 films", "🎬"),  # outside the basic plane
        ("İstanbul is large", "İstanbul"),  # one character that lower-cases to two
        ("soft\u00adhyphen and zero\u200bwidth", "zero\u200bwidth"),
        ("it cost US$3 per barrel", "US$3"),
    ],
)
def test_offsets_count_characters_of_the_original_text(tokenizer, context: str, text: str) -> None:
    rows = make_rows(("What?", context, answer(context, text)))
    encoded = encode(make_task(64), rows, tokenizer, cache=None, key="k", training=True)
    (one,) = features(encoded)
    (first,), (last,) = encoded.targets("start_positions"), encoded.targets("end_positions")
    assert context[one["spans"][first][0] : one["spans"][last][1]] == text


def test_an_answer_inside_a_token_takes_the_token(tokenizer) -> None:
    rows = make_rows(("What?", "the earthquake", answer("the earthquake", "quake")))
    encoded = encode(make_task(), rows, tokenizer, cache=None, key="k", training=True)
    (one,) = features(encoded)
    assert one["spans"][encoded.targets("start_positions")[0]].tolist() == [4, 14]


def wrong_rows() -> Dataset:
    return make_rows(
        ("When?", CONTEXT, answer(CONTEXT, "2008")),
        ("Where?", CONTEXT, {"text": ["Peking"], "answer_start": [4]}),
        ("Where?", CONTEXT, {"text": ["Sichuan"], "answer_start": [1]}),  # there, but not at its offset
        ("Where?", CONTEXT, {"text": ["Sichuan"], "answer_start": [-3]}),
        ("Where?", CONTEXT, {"text": ["Sichuan"], "answer_start": [10_000]}),
        ("Where?", CONTEXT, {"text": [""], "answer_start": [4]}),
        ("Where?", "a b", {"text": [" "], "answer_start": [1]}),  # covered by no token
        ("Why?", CONTEXT, NO_ANSWER),
    )


def test_answers_that_are_not_in_their_context_are_left_out_of_training_with_a_warning(
    tokenizer, caplog, tmp_path
) -> None:
    for _ in range(2):  # from the cache too
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            encoded = encode(make_task(64), wrong_rows(), tokenizer, cache=tmp_path, key="k", training=True)
        assert encoded.excluded() == ["q1", "q2", "q3", "q4", "q5", "q6"]
        assert "6 of 8 training rows are left out" in caplog.text
        assert "q1, q2" in caplog.text
        assert encoded.row_ids(np.arange(2)) == ["q0", "q7"]
        assert encoded.targets("start_positions")[0] > 0
        assert encoded.targets("start_positions")[1] == 0


def test_evaluation_keeps_them_all(tokenizer) -> None:
    encoded = encode(make_task(64), wrong_rows(), tokenizer, cache=None, key="k")
    assert encoded.rows.tolist() == list(range(8))
    assert encoded.excluded() == []
    assert encoded.targets("start_positions") is None


def test_the_first_answer_that_is_in_its_context_is_trained_on(tokenizer) -> None:
    both = {"text": ["Peking", "Sichuan"], "answer_start": [0, CONTEXT.index("Sichuan")]}
    encoded = encode(
        make_task(64), make_rows(("Where?", CONTEXT, both)), tokenizer, cache=None, key="k", training=True
    )
    (one,) = features(encoded)
    first = encoded.targets("start_positions")[0]
    assert one["spans"][first].tolist() == [CONTEXT.index("Sichuan"), CONTEXT.index("Sichuan") + 7]


def test_training_rows_without_any_answer_in_its_context_are_refused(tokenizer) -> None:
    with pytest.raises(UserError, match="no training row"):
        encode(make_task(), wrong_rows().select([1, 2]), tokenizer, cache=None, key="k", training=True)
