"""Read a task of one's own: a YAML of ten lines beside files in Parquet, CSV, TSV or JSON lines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bench.errors import UserError
from bench.tasks.task import HeadName, Source, Task
from bench.validation import validated

SCORES: dict[HeadName, tuple[str, ...]] = {
    "classification": ("accuracy", "matthews"),
    "regression": ("pearson", "spearman"),
    "extractive-qa": ("f1", "exact_match"),
}


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _label_names(value: Any) -> Any:
    if any(isinstance(name, bool) for name in value or ()):
        raise ValueError("YAML reads yes, no, on, off as true and false; put the names into quotes")
    return tuple(str(name) for name in value or ())


class OwnTask(BaseModel):
    """What a task file may say; the files lie beside it.

    Attributes:
        name: What tables show; default the file's own name.
        head: Default: classification where ``labels`` are named, else regression.
        text: One or two text columns; for extractive QA question and context.
        label: Column of labels: names or codes; numbers for regression; answers for extractive QA.
        labels: Names of the classes, in the order of their codes.
        id: Column of row ids; default the row number.
        train: File of the training rows.
        validation: File that scores are computed on.
        test: File of unlabelled rows.
        main_score: Score that ranks; default the first of ``scores``.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    summary: str = "a task of one's own"
    head: HeadName
    text: Annotated[tuple[str, ...], BeforeValidator(_as_tuple), Field(min_length=1, max_length=2)]
    label: str
    labels: Annotated[tuple[str, ...], BeforeValidator(_label_names)] = ()
    id: str | None = None
    train: str
    validation: str
    test: str | None = None
    scores: tuple[str, ...]
    main_score: str
    max_length: int = Field(default=128, ge=8, le=8192)
    licence: str = "not stated"
    citation: str = ""
    notes: str = ""

    @model_validator(mode="before")
    @classmethod
    def _defaults(cls, values: dict[str, Any]) -> dict[str, Any]:
        head = values.setdefault("head", "classification" if values.get("labels") else "regression")
        if head == "extractive-qa":
            values.setdefault("label", "answers")
        scores = values.setdefault("scores", SCORES.get(head, ()))
        values.setdefault("main_score", scores[0] if scores else "")
        return values


def read_task(file: Path) -> Task:
    """Read a task file.

    Raises:
        UserError: Naming the file, the key and what was possible.
    """
    try:
        document = yaml.safe_load(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{file}: not readable as YAML: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise UserError(f"{file}: a task is a mapping: text, label, labels, train, validation")
    own = validated(OwnTask, {"name": file.stem, **document}, where=str(file))
    roles = {"train": own.train, "validation": own.validation, "test": own.test}
    folder = file.parent.absolute()
    for role, name in roles.items():
        if name is not None and not (folder / name).is_file():
            raise UserError(f"{file}: no file {folder / name} with the {role} rows")
    return validated(
        Task,
        own.model_dump(exclude=set(roles))
        | {
            "source": Source(kind="directory", path=str(folder)),
            "splits": {role: name for role, name in roles.items() if name is not None},
        },
        where=str(file),
    )
