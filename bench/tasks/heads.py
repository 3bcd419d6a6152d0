"""The behaviours of a task: how rows become features, which model it needs, how logits become scores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from bench.errors import unknown
from bench.tasks.task import HeadName, Task

if TYPE_CHECKING:
    from datasets import Dataset
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

    from bench.encoded import Encoded
    from bench.tasks.arrays import Arrays, Logits


class Head(Protocol):
    """One behaviour.

    Attributes:
        auto_class: Name of the transformers Auto class that builds the model.
    """

    auto_class: str

    def scores(self, task: Task) -> tuple[str, ...]:
        """Return the names of the scores that the task may ask for."""

    def encode(self, task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
        """Tokenise checked rows into flat arrays."""

    def score(self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
        """Compute the task's scores from the logits of every feature."""

    def row_scores(
        self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits
    ) -> dict[str, NDArray[Any]]:
        """Compute scores of single rows ``[rows]`` that labels and logits alone do not tell."""


class SequenceHead:
    """Classification and regression: one feature and one prediction a row."""

    auto_class = "AutoModelForSequenceClassification"

    def scores(self, task: Task) -> tuple[str, ...]:
        """Return correlations of values, or agreements of codes; F1 needs exactly two classes."""
        if task.head == "regression":
            return ("pearson", "spearman")
        return ("accuracy", "matthews", "f1") if task.num_labels == 2 else ("accuracy", "matthews")

    def encode(self, task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
        """Tokenise one or two texts a row."""
        from bench.tasks.sequences import encode_sequences

        return encode_sequences(task, rows, tokenizer)

    def score(self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
        """Compare the most likely classes, or the values, with the labels."""
        from bench import metrics

        labels = encoded.targets("labels")
        if isinstance(logits, tuple) or labels is None:
            raise ValueError(f"task {task.name!r} is scored from one array of logits, on rows with labels")
        predictions = logits[:, 0] if task.head == "regression" else logits.argmax(axis=1)
        return {name: getattr(metrics, name)(predictions, labels) for name in task.scores}

    def row_scores(
        self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits
    ) -> dict[str, NDArray[Any]]:
        """Return none."""
        return {}


class SpanHead:
    """Extractive QA: one or more features a row; the best span of the context is the answer."""

    auto_class = "AutoModelForQuestionAnswering"

    def scores(self, task: Task) -> tuple[str, ...]:
        """Return exact match and F1, of all, answerable and unanswerable questions, and at the best threshold.

        A task that asks for ``no_answer`` scores lets the model abstain; ``best`` scores need that.
        """
        kinds = ["", "has_answer_"]
        if any(name.startswith("no_answer_") for name in task.scores):
            kinds += ["no_answer_", "best_"]
        return tuple(kind + name for kind in kinds for name in ("exact_match", "f1"))

    def encode(self, task: Task, rows: Dataset, tokenizer: Tokenizer, *, training: bool) -> Arrays:
        """Tokenise rows, long contexts into several overlapping features."""
        from bench.tasks.qa import encode_windows

        return encode_windows(task, rows, tokenizer, training=training)

    def score(self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits) -> dict[str, float]:
        """Compare the answers with the references."""
        from bench.tasks.answers import judge_logits

        scores = judge_logits(task, rows, encoded, logits).scores()
        return {name: scores[name] for name in task.scores if name in scores}

    def row_scores(
        self, task: Task, rows: Dataset, encoded: Encoded, logits: Logits
    ) -> dict[str, NDArray[Any]]:
        """Return exact match and F1 of every question."""
        from bench.tasks.answers import judge_logits

        return judge_logits(task, rows, encoded, logits).row_scores()


HEADS: dict[HeadName, Head] = {
    "classification": SequenceHead(),
    "regression": SequenceHead(),
    "extractive-qa": SpanHead(),
}


def auto_model_class(head: HeadName) -> Any:
    """Return the transformers Auto class of a head."""
    import transformers

    return getattr(transformers, HEADS[head].auto_class)


def require_known_scores(task: Task) -> None:
    """Raise a UserError for the first score of the task that its head does not have."""
    known = HEADS[task.head].scores(task)
    for name in task.scores:
        if name not in known:
            raise unknown("score", name, known, where=f"task {task.name!r}")
