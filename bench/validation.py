"""Turn what people write into validated models, and what pydantic says of it into one line for them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from bench.errors import UserError

Model = TypeVar("Model", bound=BaseModel)


def validated(model: type[Model], values: Mapping[str, Any], *, where: str) -> Model:
    """Validate values strictly: a key that the model does not know is an error, wherever it came from.

    Args:
        model: What the values must be.
        values: What somebody wrote.
        where: What the message begins with: a file, or the thing that was configured.

    Raises:
        UserError: One line that names the key, the value, what was possible and the nearest match.
    """
    try:
        return model.model_validate(dict(values), extra="forbid")
    except ValidationError as error:
        problems = [_explain(model, problem) for problem in error.errors(include_url=False)]
        raise UserError(f"{where}: {'; '.join(dict.fromkeys(problems))}") from None


def _explain(model: type[BaseModel], problem: Any) -> str:
    location, kind = problem["loc"], problem["type"]
    key = ".".join(str(part) for part in location if not _is_machinery(part))
    if kind == "extra_forbidden":
        known = _fields_at(model, location[:-1])
        close = difflib.get_close_matches(str(location[-1]), known, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else ";"
        return f"unknown key {key!r}{hint} known: {', '.join(known) or 'none'}"
    if kind == "missing":
        return f"missing key {key!r}"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message} (got {problem['input']!r})" if key else message


def _is_machinery(part: object) -> bool:
    """Leave out the names of validators that pydantic puts into a location."""
    return isinstance(part, str) and ("[" in part or part.endswith("()"))


def _fields_at(model: type[BaseModel], location: tuple[Any, ...]) -> list[str]:
    """Return the keys of the model that a location leads to."""
    current: Any = model
    for part in location:
        field = getattr(current, "model_fields", {}).get(part)
        if field is not None:
            current = field.annotation
        current = _model_within(current) or current
    return list(getattr(current, "model_fields", {}))


def _model_within(annotation: Any) -> type[BaseModel] | None:
    """Find the one model inside ``Model | None``, ``tuple[Model, ...]`` and their like."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _model_within(part))), None)
