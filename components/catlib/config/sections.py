"""What every part of a recipe shares: its base class, its number types, and complaints as one sentence."""

from __future__ import annotations

import difflib
import types
import typing
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from components.catlib.errors import UserError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def refuse_idle(section: Section, settings: tuple[str, ...], *, reason: str) -> None:
    """Refuses settings that would have no effect beside the others, unless they have their default or are off.

    Raises:
        ValueError: Names the first one, and why it has no effect.
    """
    for name in settings:
        value, default = getattr(section, name), type(section).model_fields[name].default
        if value != default and value:
            raise ValueError(f"{name} has no effect {reason}; leave it out")


def _as_height_width(value: Any) -> Any:
    """Reads 256 as (256, 256)."""
    return (value, value) if isinstance(value, int | float) else value


Size = Annotated[tuple[Count, Count], BeforeValidator(_as_height_width)]
"""Height and width in pixels; a single number means a square."""


SectionType = typing.TypeVar("SectionType", bound=BaseModel)


def validate(model: type[SectionType], settings: Any, *, where: str) -> SectionType:
    """Validates settings against a model and turns the first complaint into one sentence.

    Raises:
        UserError: Names the key, what was found and what was expected.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_complaint(model, error)}") from error


def _first_complaint(model: type[BaseModel], error: ValidationError) -> str:
    complaint = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in complaint["loc"])
    if complaint["type"] == "extra_forbidden":
        *parents, leaf = complaint["loc"]
        names = _field_names(model, parents)
        hint = nearest(str(leaf), names) or f"; valid keys here: {', '.join(names)}"
        return f"unknown key {key!r}{hint}."
    message = complaint["msg"].removeprefix("Value error, ").rstrip(".")
    found = complaint.get("input")
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool | list | tuple) else ""
    return f"{key + ': ' if key else ''}{message}{shown}."


def _field_names(model: type[BaseModel], parents: list[int | str]) -> list[str]:
    """Follows a path of keys through nested models to the valid keys at its end."""
    for parent in parents:
        field = model.model_fields.get(str(parent))
        if field is None:
            continue
        options = [field.annotation]
        if typing.get_origin(field.annotation) in (typing.Union, types.UnionType):
            options = list(typing.get_args(field.annotation))
        nested = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def nearest(name: str, valid: list[str]) -> str:
    """Returns the hint "did you mean …?" for a name that is almost a valid one, else an empty text."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
