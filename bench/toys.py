"""A tiny teacher and toy rows, made in code: what contract checks and tests run on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from bench.tasks.task import HeadName, Source, Task

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

VOCABULARY = 100
LENGTH = 12  # tokens of the longest toy row
HEADS: tuple[HeadName, ...] = ("classification", "regression", "extractive-qa")


def toy_task(head: HeadName) -> Task:
    """Describe a task whose rows come from ``toy_batches``."""
    score = {"classification": "accuracy", "regression": "pearson", "extractive-qa": "f1"}[head]
    return Task(
        name=f"toy-{head}",
        summary="toy rows made in code",
        head=head,
        source=Source(kind="embedded", path="toy"),
        text=("question", "context") if head == "extractive-qa" else ("text",),
        label="answers" if head == "extractive-qa" else "label",
        labels=("low", "middle", "high") if head == "classification" else (),
        splits={"train": "train", "validation": "validation"},
        main_score=score,
        scores=(score,),
        max_length=LENGTH,
        licence="none",
        citation="none",
    )


def toy_teacher(task: Task, *, layers: int = 4, hidden_size: int = 32, seed: int = 0) -> PreTrainedModel:
    """Make a small BERT of the task's head, frozen and in eval mode, with weights large enough to disagree."""
    from transformers import BertConfig, BertForQuestionAnswering, BertForSequenceClassification

    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=4,
        intermediate_size=4 * hidden_size,
        max_position_embeddings=64,
        initializer_range=0.2,
        num_labels=task.num_labels,
    )
    classes = {"extractive-qa": BertForQuestionAnswering}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        teacher: PreTrainedModel = classes.get(task.head, BertForSequenceClassification)(config)
    teacher.requires_grad_(False)
    teacher.eval()
    return teacher


class ToyBatches(list["dict[str, Tensor]"]):
    """Batches that are all the training rows there are: a calibration."""

    def token_frequency(self, vocab_size: int) -> Tensor:
        """Count the tokens of the batches, padding left out, ``[vocab_size]``."""
        tokens = torch.cat([batch["input_ids"][batch["attention_mask"].bool()] for batch in self])
        return torch.bincount(tokens, minlength=vocab_size)


def toy_batches(task: Task, *, batches: int = 3, rows: int = 8, seed: int = 0) -> ToyBatches:
    """Make training batches ``[rows, LENGTH]`` with padding, whose labels follow from their tokens."""
    generator = torch.Generator().manual_seed(seed)
    return ToyBatches(_batch(task, rows, generator) for _ in range(batches))


def _batch(task: Task, rows: int, generator: torch.Generator) -> dict[str, Tensor]:
    lengths = torch.randint(LENGTH // 2, LENGTH + 1, (rows, 1), generator=generator)
    lengths[0] = LENGTH
    positions = torch.arange(LENGTH)
    mask = (positions < lengths).long()
    ids = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=generator) * mask
    batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": (positions >= 4).long() * mask}
    if task.head == "extractive-qa":
        start = ids.argmax(dim=1)
        return {
            **batch,
            "start_positions": start,
            "end_positions": torch.minimum(start + 2, lengths[:, 0] - 1),
        }
    if task.head == "regression":
        return {**batch, "labels": ids[:, 0] / VOCABULARY}
    return {**batch, "labels": ids[:, 0] * 3 // VOCABULARY}
