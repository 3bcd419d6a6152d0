"""The three behaviours of a task: how rows become features, which model it needs, how logits become scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bench.tasks.task import HeadName, Task

if TYPE_CHECKING:
    import numpy as np
    from datasets import Dataset
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from bench.data import Encoded

    Logits = NDArray[np.float32] | tuple[NDArray[np.float32], NDArray[np.float32]]

Arrays = dict[str, Any]
"""Named numpy arrays of one split; ``bench.data.Encoded`` says which."""


class Head(Protocol):
    """One behaviour.

    Attributes:
        auto_class: Name of the transformers Auto class that builds the model.
    """

    auto_class: str

    def encode(self, task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
        """Tokenise rows into flat arrays."""

    def score(self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
        """Compute the task's scores from the logits of every feature."""


class Classification:
    """Choose the class with the largest logit."""

    auto_class = "AutoModelForSequenceClassification"

    def encode(self, task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
        """Tokenise rows, one feature a row."""
        from bench.tasks.sequences import encode_sequences

        return encode_sequences(task, rows, tokenizer, training=training)

    def score(self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
        """Compare the predicted codes with the labels."""
        from bench.metrics import CLASSIFICATION

        predictions = _single(logits).argmax(axis=1)
        return {name: CLASSIFICATION[name](predictions, _labels(task, encoded)) for name in task.scores}


class Regression:
    """Take the one logit as the value."""

    auto_class = "AutoModelForSequenceClassification"

    def encode(self, task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
        """Tokenise rows, one feature a row."""
        from bench.tasks.sequences import encode_sequences

        return encode_sequences(task, rows, tokenizer, training=training)

    def score(self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
        """Correlate the predicted values with the labels."""
        from bench.metrics import REGRESSION

        predictions = _single(logits)[:, 0]
        return {name: REGRESSION[name](predictions, _labels(task, encoded)) for name in task.scores}


class ExtractiveQA:
    """Cut the best span out of the context."""

    auto_class = "AutoModelForQuestionAnswering"

    def encode(self, task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
        """Tokenise rows, long contexts into several overlapping features."""
        from bench.tasks.qa import encode_windows

        return encode_windows(task, rows, tokenizer, training=training)

    def score(self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
        """Compare the answers with the references."""
        from bench.tasks.answers import score_answers

        if not isinstance(logits, tuple):
            raise TypeError("extractive QA is scored from a pair, the logits of starts and of ends")
        return score_answers(task, rows, encoded, *logits)


HEADS: dict[HeadName, Head] = {
    "classification": Classification(),
    "regression": Regression(),
    "extractive-qa": ExtractiveQA(),
}


def auto_model_class(head: HeadName) -> Any:
    """Return the transformers Auto class of a head."""
    import transformers

    return getattr(transformers, HEADS[head].auto_class)


def _single(logits: Logits) -> NDArray[np.float32]:
    if isinstance(logits, tuple):
        raise TypeError("a pair of logits belongs to extractive QA")
    return logits


def _labels(task: Task, encoded: Encoded) -> NDArray[Any]:
    labels = encoded.targets("labels")
    if labels is None:
        raise ValueError(f"the rows of task {task.name!r} have no labels to score against")
    return labels
