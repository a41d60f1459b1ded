"""What every part of a recipe shares: its base class, its number types, and what is known of a model."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic.fields import FieldInfo
from pydantic_core import InitErrorDetails

from components.catlib.credentials import refuse_credentials

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


def listed_once(values: tuple[Any, ...]) -> tuple[Any, ...]:
    """Refuses what is listed twice (ValueError): budgets and seeds make a student each, and equal ones the same one."""
    if twice := [value for value in dict.fromkeys(values) if values.count(value) > 1]:
        raise ValueError(f"{twice[0]} is listed twice, which makes the same student again; give it once")
    return values


class Outside:
    """Marks a setting that names what a stage reads from outside a run."""


Address = Annotated[str, Outside()]
"""A path, an address or the name of known data. What it names is checked before a run, and its content is part of
cache keys."""


class Section(BaseModel):
    """A part of a recipe: immutable, without unknown keys and credentials, and with finite numbers only."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, validate_default=True, allow_inf_nan=False, hide_input_in_errors=True
    )

    @model_validator(mode="before")
    @classmethod
    def _check_credentials(cls, settings: Any) -> Any:
        refuse_credentials(settings, "")
        return settings

    @model_validator(mode="before")
    @classmethod
    def _check_numbers(cls, settings: Any) -> Any:
        """Refuses true and false where a number belongs; they would count as 1 and 0."""
        for name, value in settings.items() if isinstance(settings, Mapping) else ():
            field = cls.model_fields.get(name)
            expected = _number_type(field.annotation) if field is not None else None
            if expected is None:
                continue
            for place, found in _booleans(value):
                wrong = InitErrorDetails(type=expected, loc=(name, *place), input=found)
                raise ValidationError.from_exception_data(cls.__name__, [wrong])
        return settings


def _number_type(annotation: Any) -> Literal["int_type", "float_type"] | None:
    """Returns pydantic's name of the complaint that a setting is no number; None for settings of other types."""
    leaves = set(_leaves(annotation))
    if bool in leaves or not leaves & {int, float}:
        return None
    return "float_type" if float in leaves else "int_type"


def _leaves(annotation: Any) -> Iterator[Any]:
    parts = typing.get_args(annotation)
    if not parts or typing.get_origin(annotation) is Literal:
        yield annotation
    for part in parts:
        yield from _leaves(part)


def _booleans(value: Any) -> Iterator[tuple[tuple[int, ...], bool]]:
    """Yields every true and false in a value and in the lists within it, with its place in them."""
    if isinstance(value, bool):
        yield (), value
    elif isinstance(value, list | tuple):
        for number, part in enumerate(value):
            yield from (((number, *place), found) for place, found in _booleans(part))


def _as_height_width(value: Any) -> Any:
    """Reads 256 as (256, 256)."""
    return (value, value) if isinstance(value, int | float) else value


Size = Annotated[tuple[Count, Count], BeforeValidator(_as_height_width)]
"""Height and width in pixels; a single number means a square."""


def default_kind(key: str, kind: str) -> BeforeValidator:
    """Fills in the kind of settings that leave it out.

    A section whose settings depend on its kind is a union of models, each with a `Literal` field that names its kind:

        Generator = Annotated[Inception | Spade, Field(discriminator="family"), default_kind("family", "inception")]

    Args:
        key: The field that names the kind.
        kind: The kind to fill in.
    """

    def fill_in(settings: Any) -> Any:
        return {key: kind, **settings} if isinstance(settings, Mapping) else settings

    return BeforeValidator(fill_in)


def spelled_out(settings: Any) -> Any:
    """Reads a bare word as a kind, and a bare number as a weight."""
    match settings:
        case str():
            return {"kind": settings}
        case bool():
            return settings
        case int() | float():
            return {"weight": settings}
    return settings


def moved_names(model: type[BaseModel]) -> dict[str, str]:
    """Returns the earlier names of a model's settings, each with today's name."""
    return getattr(model, "moved", {})


def moved_out_names(model: type[BaseModel]) -> dict[str, str]:
    """Returns a model's earlier settings that are in another section of the recipe today, each with its path there."""
    return getattr(model, "moved_out", {})


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the models that an annotation names, within unions and collections as well."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def addresses_in(model: type[BaseModel]) -> set[str]:
    """Returns the names of the settings, in a model and the models within it, that are an `Address`."""
    names = {name for name, field in model.model_fields.items() if _is_marked(field)}
    return names.union(*(addresses_in(part) for part in parts_of(model)))


def parts_of(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """Yields the models that the fields of a model hold."""
    for field in model.model_fields.values():
        yield from models_in(field.annotation)


def takes_text(model: type[BaseModel], keys: Sequence[str]) -> bool:
    """Returns whether a setting is a text, so that what looks like a number or a date is meant as it is written.

    Args:
        model: The whole.
        keys: The keys that lead to the setting.
    """
    found: list[Any] = [model]
    for key in keys:
        found = [below for annotation in found for below in _annotations_below(annotation, key)]
    return bool(found) and all(_is_text(annotation) for annotation in found)


def _annotations_below(annotation: Any, key: str) -> Iterator[Any]:
    """Yields what a key leads to: in a mapping any key, else a field of a model."""
    if typing.get_origin(annotation) is dict:
        yield typing.get_args(annotation)[1]
        return
    for model in models_in(annotation):
        if key in model.model_fields:
            yield model.model_fields[key].annotation


def _is_text(annotation: Any) -> bool:
    if typing.get_origin(annotation) is Annotated:
        return _is_text(typing.get_args(annotation)[0])
    parts = [part for part in typing.get_args(annotation) if part is not type(None)]
    match typing.get_origin(annotation):
        case typing.Literal:
            return all(isinstance(part, str) for part in parts)
        case types.UnionType | typing.Union:
            return all(map(_is_text, parts))
    return annotation is str


def _is_marked(field: FieldInfo) -> bool:
    return any(isinstance(mark, Outside) for mark in field.metadata) or _names_outside(field.annotation)


def _names_outside(annotation: Any) -> bool:
    return any(isinstance(part, Outside) or _names_outside(part) for part in typing.get_args(annotation))


def kind_field(model: type[BaseModel]) -> str:
    """Returns the name of the field by which a member of a union names its kind; "" where there is none."""
    return next((name for name in ("kind", "family") if name in model.model_fields), "")


def kinds_of(model: type[BaseModel]) -> list[str]:
    """Returns the kinds that a member of a union stands for."""
    field = model.model_fields.get(kind_field(model))
    return list(typing.get_args(field.annotation)) if field is not None else []
