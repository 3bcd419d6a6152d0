"""The measures of an anatomy record: what the experts of a trained mixture learned, as plain numbers.

Lists are by layer, then by expert. ``None`` stands where a measure has no value: of an expert without tokens, say.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict

ByExpert = list[list[float | None]]  # [layers][experts]
BySibling = list[list[list[float | None]]]  # [layers][experts][experts]
ByLabel = list[list[list[float | None]]]  # [layers][experts][labels]


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Subject(_Model):
    """What was measured, and on what.

    Attributes:
        checkpoint: sha256 of the weights.
        teacher: sha256 of the weights of the model that it was cut from; empty where there was none.
        model_type: Of the checkpoint.
        routing: How a token finds its expert, as the checkpoint's configuration has it.
        data: Fingerprint of the rows.
        rows: Validation rows read.
        available_rows: Validation rows that there are.
        tokens: Tokens of those rows, without padding.
    """

    checkpoint: str
    teacher: str
    model_type: str
    routing: str
    data: str
    rows: int
    available_rows: int
    tokens: int


class Load(_Model):
    """How evenly the tokens spread.

    Attributes:
        share: Share of the tokens, ``[layers][experts]``.
        entropy: Of the shares over its largest value, log N, ``[layers]``: 1 if balanced, 0 if one expert has all.
        imbalance: Largest share over the mean share, ``[layers]``: 1 to N.
        balance_coefficient: N times the sum of the squared shares, ``[layers]``: 1 to N.
    """

    share: ByExpert
    entropy: list[float]
    imbalance: list[float]
    balance_coefficient: list[float]


class Weights(_Model):
    """How alike the neurons of experts are; those of the start are None without a teacher.

    Attributes:
        shared_cosine: Of the neurons that two experts were both given, ``[layers][experts][experts]``.
        own_cosine: Of those that one of them was given, each with the most alike of the other's.
        initial_own_cosine: The same before training.
        initial_cosine: Of each expert's neurons with what they were before training, ``[layers][experts]``.
        initial_distance: Distance from there, relative to the length there.
    """

    shared_cosine: BySibling
    own_cosine: BySibling
    initial_own_cosine: BySibling | None
    initial_cosine: ByExpert | None
    initial_distance: ByExpert | None


class Outputs(_Model):
    """Linear CKA of the outputs of two experts on the same tokens, ``[layers][experts][experts]``."""

    cka: BySibling
    tokens: int


class TokenCount(_Model):
    """A token of the vocabulary: how often it visited an expert, and what share of its occurrences that is."""

    token: str
    count: int
    share: float


class Tokens(_Model):
    """The commonest tokens of each expert, ``[layers][experts][…]``, those that came at least ``at_least`` times."""

    at_least: int
    commonest: list[list[list[TokenCount]]]


class Labels(_Model):
    """Which labels an expert's tokens come from, and what chance gives (labels shuffled over rows).

    Attributes:
        names: Of the labels.
        counts: Tokens, ``[layers][experts][labels]``.
        lift: Share of a label among an expert's tokens over its share among all.
        chance_low: Lower end of the middle 95 % of lifts by chance.
        chance_high: Upper end.
        information: Bits that a token's expert tells of its row's label, ``[layers]``.
        chance_information: The same by chance.
        p_value: Share of the shuffles, the real labels counted, that tell as much, ``[layers]``.
        shuffles: How many.
    """

    names: list[str]
    counts: list[list[list[int]]]
    lift: ByLabel
    chance_low: ByLabel
    chance_high: ByLabel
    information: list[float]
    chance_information: list[float]
    p_value: list[float]
    shuffles: int


class Replacement(_Model):
    """What is lost when an expert's tokens go to a sibling, each row to one and all siblings in turn.

    Attributes:
        score: Name of the score.
        baseline: Its value with every expert in its place.
        drop: Baseline minus the score without the expert, ``[layers][experts]``.
        low: Lower end of its 95 % interval over the choice of rows, paired.
        high: Upper end.
        lost: Rows that are right with the expert only; None for heads without classes, as are the next two.
        gained: Rows that are right without it only.
        changed: Share of rows with another prediction.
        p_value: Of a paired randomisation test for heads without classes, where McNemar's has nothing to count; each
            expert's own, not corrected. None for classes, and in records from before it was measured.
        resamples: Of the rows, for the interval.
    """

    score: str
    baseline: float
    drop: ByExpert
    low: ByExpert
    high: ByExpert
    lost: list[list[int]] | None
    gained: list[list[int]] | None
    changed: ByExpert | None
    p_value: ByExpert | None = None
    resamples: int


class Agreement(_Model):
    """How far model and teacher agree on the rows."""

    label_loyalty: float
    probability_loyalty: float


class Measures(_Model):
    """An anatomy; ``absent`` says why a measure is None.

    Attributes:
        absent: Name of the measure -> why there is none.
    """

    subject: Subject
    load: Load
    weights: Weights
    outputs: Outputs
    tokens: Tokens
    labels: Labels | None
    replacement: Replacement | None
    agreement: Agreement | None
    absent: dict[str, str]
