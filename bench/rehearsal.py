"""A cell in small, of which nothing is kept, so that the first real one of a process finds everything in place.

What comes first in a process imports some two thousand modules, and on a GPU loads libraries and kernels: ten seconds
and more, which a process that waits for its first cell has to spare.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from transformers.utils import logging as transformers_logging

from bench import checkpoints
from bench.cell import COST_LENGTH, Job, LabelLoss, training_settings
from bench.cost import count
from bench.data import encode
from bench.evaluation import predict, row_scores, score
from bench.method import Stage
from bench.sources import load_rows
from bench.training import train

ROWS = 8  # of each split; one batch, so all steps have one shape
STEPS = 3  # on a GPU: eager, captured, replayed


def rehearse(job: Job) -> None:
    """Load, train and evaluate the checkpoint of a job on a few rows of its task; writes nothing.

    Raises:
        Exception: Whatever the job itself would be recorded as failed for.
    """
    torch.set_num_threads(job.threads)
    transformers_logging.disable_progress_bar()
    with _silence():
        rows = load_rows(job.task, data=job.data, limit=ROWS)
        checkpoint = checkpoints.resolve(job.checkpoint)
        tokenizer = checkpoints.load_tokenizer(checkpoint)
        encoded = {
            role: encode(job.task, split, tokenizer, cache=None, key="", training=role == "train")
            for role, split in rows.splits.items()
        }
        settings = training_settings(job)
        small = settings.budget.model_copy(update={"epochs": STEPS, "max_steps": STEPS, "batch_size": ROWS})
        settings = replace(settings, budget=small)
        encoded = {role: split.to(settings.device) for role, split in encoded.items()}
        model = checkpoints.load_model(checkpoint, job.task, seed=settings.seed).to(settings.device)
        stage = Stage(name="labels", share=1.0, objective=LabelLoss(model))
        train(model, None, [stage], encoded["train"], settings)
        count(model, min(COST_LENGTH, job.task.max_length))
        for role in rows.splits.keys() - {"train"}:
            logits = predict(model, encoded[role], batch_size=ROWS, precision=settings.precision)
            score(job.task, rows.splits[role], encoded[role], logits)
            row_scores(job.task, rows.splits[role], encoded[role], logits)


@contextmanager
def _silence() -> Iterator[None]:
    """Keep warnings back: what they say of the job, the job says itself."""
    logging.disable()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.disable(logging.NOTSET)
