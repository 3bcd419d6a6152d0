"""From what a library found to the measures of a record: scores, names of tokens and labels, plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.anatomy.contract import Dissection, LabelAssociation, Routing
from bench.anatomy.scores import RESAMPLES, drops, score_name, scored, swap_p_value
from bench.evaluation import gather
from bench.tasks.task import Task
from results import anatomy as record
from results.agreement import label_loyalty, probability_loyalty

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from bench.encoded import Encoded
    from bench.tasks.arrays import Logits

COMMONEST = 8  # tokens listed for each expert
AT_LEAST = 5  # occurrences of a token that is listed

Expert = tuple[int, int]  # layer, expert


@dataclass(frozen=True)
class Reading:
    """The rows that were read, and in which order their features came.

    Attributes:
        task: Theirs.
        rows: One split.
        encoded: The same as tokens.
        order: ``[features]``, which feature of the split came when.
    """

    task: Task
    rows: Dataset
    encoded: Encoded
    order: NDArray[np.int64]

    def logits(self, batches: Sequence[Sequence[torch.Tensor]]) -> Logits:
        """Return logits in the order of the split."""
        return gather(self.encoded, batches, self.order)

    def by_row(self, visits: torch.Tensor) -> NDArray[np.int64]:
        """Add ``[features, layers, experts]`` up to ``[rows, layers, experts]``."""
        totals = np.zeros((len(self.rows), *visits.shape[1:]), dtype=np.int64)
        np.add.at(totals, self.encoded.rows[self.order], visits.numpy())
        return totals


@dataclass(frozen=True)
class TeacherSays:
    """What the teacher made of the same rows; without logits, ``why`` not."""

    logits: Logits | None
    why: str = ""


def measures(
    found: Dissection,
    reading: Reading,
    teacher: TeacherSays,
    tokenizer: PreTrainedTokenizerBase,
    subject: record.Subject,
) -> record.Measures:
    """Write down all that was found, and why the rest was not."""
    logits = reading.logits(found.logits)
    absent = {}
    if found.initial_cosine is None:
        absent["movement"] = "no teacher tells what the experts were cut from"
    if found.labels is None:
        absent["labels"] = f"rows of {reading.task.head} have no class"
    if not found.replaced:
        absent["replacement"] = "an expert alone has no sibling"
    if teacher.logits is None:
        absent["agreement"] = teacher.why
    return record.Measures(
        subject=subject,
        load=load_measures(found.routing),
        weights=record.Weights(
            shared_cosine=_plain(found.shared_cosine),
            own_cosine=_plain(found.own_cosine),
            initial_own_cosine=_plain_or_none(found.initial_own_cosine),
            initial_cosine=_plain_or_none(found.initial_cosine),
            initial_distance=_plain_or_none(found.initial_distance),
        ),
        outputs=record.Outputs(cka=_plain(found.output_cka), tokens=found.output_tokens),
        tokens=token_measures(found.routing, tokenizer),
        labels=_labels(found.labels, reading.task) if found.labels else None,
        replacement=_replacement(found, reading, logits) if found.replaced else None,
        agreement=_agreement(logits, teacher.logits) if teacher.logits is not None else None,
        absent=absent,
    )


def load_measures(routing: Routing) -> record.Load:
    """Return how evenly the tokens spread."""
    counts = routing.counts.sum(1).double()
    share = counts / counts.sum(1, keepdim=True)
    experts = share.shape[1]
    entropy = torch.special.entr(share).sum(1) / math.log(max(experts, 2))
    return record.Load(
        share=_plain(share),
        entropy=_plain(entropy if experts > 1 else torch.ones_like(entropy)),
        imbalance=_plain(experts * share.amax(1)),
        balance_coefficient=_plain(experts * share.square().sum(1)),
    )


def token_measures(routing: Routing, tokenizer: PreTrainedTokenizerBase) -> record.Tokens:
    """Return the commonest tokens of each expert, by their names in the vocabulary."""
    layers, _, experts = routing.counts.shape
    whole = routing.counts.sum(2)

    def commonest(layer: int, expert: int) -> list[record.TokenCount]:
        counts = routing.counts[layer, :, expert]
        order = counts.argsort(descending=True, stable=True)[:COMMONEST].tolist()
        kept = [token for token in order if counts[token] >= AT_LEAST]
        return [
            record.TokenCount(
                token=str(tokenizer.convert_ids_to_tokens(token)),
                count=int(counts[token]),
                share=round(float(counts[token] / whole[layer, token]), 4),
            )
            for token in kept
        ]

    listed = [[commonest(layer, expert) for expert in range(experts)] for layer in range(layers)]
    return record.Tokens(at_least=AT_LEAST, commonest=listed)


def _labels(found: LabelAssociation, task: Task) -> record.Labels:
    return record.Labels(
        names=list(task.labels),
        counts=found.counts.tolist(),
        lift=_plain(found.lift),
        chance_low=_plain(found.chance_low),
        chance_high=_plain(found.chance_high),
        information=_plain(found.information),
        chance_information=_plain(found.chance_information),
        p_value=_plain(found.p_value),
        shuffles=found.shuffles,
    )


def _replacement(found: Dissection, reading: Reading, logits: Logits) -> record.Replacement:
    task, rows, encoded = reading.task, reading.rows, reading.encoded
    without = {expert: reading.logits(batches) for expert, batches in found.replaced.items()}
    whole = scored(task, rows, encoded, logits)
    alone = {expert: scored(task, rows, encoded, other) for expert, other in without.items()}
    fallen = drops(whole, alone, len(rows))
    classes: dict[str, Any] = {}
    if task.head == "classification":
        classes = _other_classes(without, logits, encoded.targets("labels"))
    return record.Replacement(
        score=score_name(task),
        baseline=round(whole(np.arange(len(rows))), 6),
        drop=_table({expert: drop.value for expert, drop in fallen.items()}),
        low=_table({expert: drop.low for expert, drop in fallen.items()}),
        high=_table({expert: drop.high for expert, drop in fallen.items()}),
        lost=classes.get("lost"),
        gained=classes.get("gained"),
        changed=classes.get("changed"),
        p_value=None if classes else _table({e: swap_p_value(whole, other) for e, other in alone.items()}),
        resamples=RESAMPLES,
    )


def _other_classes(
    without: Mapping[Expert, Logits], logits: Logits, labels: NDArray[Any] | None
) -> dict[str, Any]:
    """Count the rows whose class is another one without an expert, and those that this makes wrong or right."""
    chosen = _classes(logits).argmax(axis=1)
    others = {expert: _classes(other).argmax(axis=1) for expert, other in without.items()}
    return {
        "lost": _table({e: int(((chosen == labels) & (other != labels)).sum()) for e, other in others.items()}),
        "gained": _table({e: int(((chosen != labels) & (other == labels)).sum()) for e, other in others.items()}),
        "changed": _table({e: float((chosen != other).mean()) for e, other in others.items()}),
    }  # fmt: skip


def _agreement(logits: Logits, teacher: Logits) -> record.Agreement:
    ours, theirs = _classes(logits), _classes(teacher)
    return record.Agreement(
        label_loyalty=label_loyalty(ours, theirs), probability_loyalty=probability_loyalty(ours, theirs)
    )


def _table(values: Mapping[Expert, float]) -> Any:
    """Lay values out by layer and expert."""
    layers, experts = (1 + max(place) for place in zip(*values, strict=True))
    return [[round(values[layer, expert], 6) for expert in range(experts)] for layer in range(layers)]


def _classes(logits: Logits) -> NDArray[np.float64]:
    assert not isinstance(logits, tuple)
    return logits.astype(np.float64)


def _plain_or_none(values: torch.Tensor | None) -> Any:
    return None if values is None else _plain(values)


def _plain(values: torch.Tensor) -> Any:
    """Return nested lists of numbers of six digits; None for NaN."""
    return _rounded(values.tolist())


def _rounded(value: Any) -> Any:
    if isinstance(value, list):
        return [_rounded(one) for one in value]
    return None if math.isnan(value) else float(f"{value:.6g}")
