"""The tasks of GLUE (Wang et al., ICLR 2019) as data: columns, labels, scores, sizes, licences and known noise.

Rows, labels and their codes are those of ``nyu-mll/glue`` on the datasets hub. Scores follow the field: Matthews for
CoLA, F1 and accuracy for MRPC and QQP (never averaged), Pearson and Spearman for STS-B, accuracy for the rest.
"""

from __future__ import annotations

from bench.tasks.task import Source, Task

REPOSITORY = "nyu-mll/glue"
REVISION = "bcdcba79d07bc864c1c254ccfcedcce55bcc9a8c"

OFFICIAL_ROWS = {  # as the hub's card has them, by role; what is loaded may be a part
    "cola": {"train": 8551, "validation": 1043, "test": 1063},
    "sst2": {"train": 67349, "validation": 872, "test": 1821},
    "mrpc": {"train": 3668, "validation": 408, "test": 1725},
    "stsb": {"train": 5749, "validation": 1500, "test": 1379},
    "qqp": {"train": 363846, "validation": 40430, "test": 390965},
    "mnli": {
        "train": 392702,
        "validation": 9815,
        "validation_mismatched": 9832,
        "test": 9796,
        "test_mismatched": 9847,
        "test_ax": 1104,
    },
    "qnli": {"train": 104743, "validation": 5463, "test": 5463},
    "rte": {"train": 2490, "validation": 277, "test": 3000},
    "wnli": {"train": 635, "validation": 71, "test": 146},
    "ax": {"train": 392702, "validation": 9815, "test": 1104},
}

WITH_TEST = {"train": "train", "validation": "validation", "test": "test"}
ENTAILMENT = ("entailment", "not_entailment")
MNLI_LABELS = ("entailment", "neutral", "contradiction")


def _source(config: str) -> Source:
    return Source(kind="hub", path=REPOSITORY, config=config, revision=REVISION)


COLA = Task(
    name="cola",
    summary="is the sentence acceptable English",
    head="classification",
    source=_source("cola"),
    directory="glue/cola",
    text=("sentence",),
    id="idx",
    labels=("unacceptable", "acceptable"),
    splits=WITH_TEST,
    main_score="matthews",
    scores=("matthews", "accuracy"),
    licence="not stated; sentences quoted from works of linguistics",
    citation="warstadt2019",
    notes="18 validation sentences are in train too, 2 of them with the other label",
)

SST2 = Task(
    name="sst2",
    summary="is the sentence of a film review positive",
    head="classification",
    source=_source("sst2"),
    directory="glue/sst2",
    text=("sentence",),
    id="idx",
    labels=("negative", "positive"),
    splits=WITH_TEST,
    main_score="accuracy",
    scores=("accuracy",),
    licence="not stated",
    citation="socher2013",
    notes="training rows are phrases, many of them repeated; validation rows are whole sentences",
)

MRPC = Task(
    name="mrpc",
    summary="do the two sentences of the news mean the same",
    head="classification",
    source=_source("mrpc"),
    directory="glue/mrpc",
    text=("sentence1", "sentence2"),
    id="idx",
    labels=("not_equivalent", "equivalent"),
    splits=WITH_TEST,
    main_score="f1",
    scores=("f1", "accuracy"),
    licence="Microsoft Research terms, for research",
    citation="dolan2005",
    notes="68 % of the pairs are equivalent; F1 of that class, never averaged with accuracy",
)

STSB = Task(
    name="stsb",
    summary="how alike are the two sentences, 0 to 5",
    head="regression",
    source=_source("stsb"),
    directory="glue/stsb",
    text=("sentence1", "sentence2"),
    id="idx",
    splits=WITH_TEST,
    main_score="spearman",
    scores=("spearman", "pearson"),
    licence="scores CC BY-SA 4.0; each source of text has terms of its own",
    citation="cer2017",
    notes="6 validation pairs are in train too",
)

QQP = Task(
    name="qqp",
    summary="do the two questions of Quora ask the same",
    head="classification",
    source=_source("qqp"),
    directory="glue/qqp",
    text=("question1", "question2"),
    id="idx",
    labels=("not_duplicate", "duplicate"),
    splits=WITH_TEST,
    main_score="f1",
    scores=("f1", "accuracy"),
    licence="Quora's terms, not commercial",
    citation="iyer2017",
    notes="37 % of the pairs are duplicates; F1 of that class; the test split has another balance",
)

MNLI = Task(
    name="mnli",
    summary="does the premise entail the hypothesis, contradict it or neither",
    head="classification",
    source=_source("mnli"),
    directory="glue/mnli",
    text=("premise", "hypothesis"),
    id="idx",
    labels=MNLI_LABELS,
    splits={
        "train": "train",
        "validation": "validation_matched",
        "validation_mismatched": "validation_mismatched",
        "test": "test_matched",
        "test_mismatched": "test_mismatched",
        "test_ax": "ax:test",
    },
    main_score="accuracy",
    scores=("accuracy",),
    licence="OANC; fiction CC BY 3.0, CC BY-SA 3.0, MIT and public domain",
    citation="williams2018",
    notes="validation: matched genres, validation_mismatched: others; labels are majorities of five opinions",
)

QNLI = Task(
    name="qnli",
    summary="does the sentence of Wikipedia answer the question",
    head="classification",
    source=_source("qnli"),
    directory="glue/qnli",
    text=("question", "sentence"),
    id="idx",
    labels=ENTAILMENT,
    splits=WITH_TEST,
    main_score="accuracy",
    scores=("accuracy",),
    max_length=512,
    licence="CC BY-SA 4.0, as SQuAD",
    citation="wang2019",
    notes="made from SQuAD v1.1 by rule; this is QNLIv2",
)

RTE = Task(
    name="rte",
    summary="does the first text entail the second",
    head="classification",
    source=_source("rte"),
    directory="glue/rte",
    text=("sentence1", "sentence2"),
    id="idx",
    labels=ENTAILMENT,
    splits=WITH_TEST,
    main_score="accuracy",
    scores=("accuracy",),
    max_length=512,
    licence="not stated",
    citation="wang2019",
    notes="277 validation rows: one row is 0.36 points, so differences need many seeds",
)

WNLI = Task(
    name="wnli",
    summary="does the sentence follow once the pronoun is replaced",
    head="classification",
    source=_source("wnli"),
    directory="glue/wnli",
    text=("sentence1", "sentence2"),
    id="idx",
    labels=("not_entailment", "entailment"),
    splits=WITH_TEST,
    main_score="accuracy",
    scores=("accuracy",),
    licence="not stated",
    citation="levesque2012",
    notes="validation is adversarial: 65 of its 71 first sentences are in train, where learning them misleads",
)

AX = Task(
    name="ax",
    summary="GLUE's diagnostic pairs, for a model trained on MNLI",
    head="classification",
    source=_source("mnli"),
    directory="glue/mnli",
    text=("premise", "hypothesis"),
    id="idx",
    labels=MNLI_LABELS,
    splits={"train": "train", "validation": "validation_matched", "test": "ax:test"},
    main_score="matthews",
    scores=("matthews", "accuracy"),
    licence="not stated",
    citation="wang2019",
    notes="trained and validated on MNLI; the diagnostic rows are unlabelled, the GLUE server scores them",
)
