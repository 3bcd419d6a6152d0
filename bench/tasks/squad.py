"""SQuAD v1.1 (Rajpurkar et al., EMNLP 2016) and v2.0 (ACL 2018) as data: spans of Wikipedia that answer questions."""

from __future__ import annotations

from bench.tasks.task import Source, Task

OFFICIAL_ROWS = {
    "squad-v1.1": {"train": 87599, "validation": 10570},
    "squad-v2.0": {"train": 130319, "validation": 11873},
}

SQUAD_V1 = Task(
    name="squad-v1.1",
    summary="SQuAD v1.1: which words of the paragraph answer the question",
    head="extractive-qa",
    source=Source(
        kind="hub",
        path="rajpurkar/squad",
        config="plain_text",
        revision="7b6d24c440a36b6815f21b70d25016731768db1f",
    ),
    directory="squad/v1.1",
    text=("question", "context"),
    label="answers",
    id="id",
    splits={"train": "train", "validation": "validation"},
    main_score="f1",
    scores=("f1", "exact_match"),
    max_length=384,
    licence="CC BY-SA 4.0",
    citation="rajpurkar2016",
    notes="validation has up to six reference answers a question; the best match counts",
)

SQUAD_V2 = Task(
    name="squad-v2.0",
    summary="SQuAD v2.0: the same, with questions that the paragraph does not answer",
    head="extractive-qa",
    source=Source(
        kind="hub",
        path="rajpurkar/squad_v2",
        config="squad_v2",
        revision="3ffb306f725f7d2ce8394bc1873b24868140c412",
    ),
    directory="squad/v2.0",
    text=("question", "context"),
    label="answers",
    id="id",
    splits={"train": "train", "validation": "validation"},
    main_score="f1",
    scores=(
        "f1",
        "exact_match",
        "has_answer_f1",
        "has_answer_exact_match",
        "no_answer_f1",
        "best_f1",
        "best_exact_match",
    ),
    max_length=384,
    licence="CC BY-SA 4.0",
    citation="rajpurkar2018",
    notes="half of the validation questions have no answer; a null score above the best span's says so",
)
