"""What every part of a recipe shares: its base class, its number types, and complaints as one sentence."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from components.catlib.credentials import refuse_credentials
from components.catlib.errors import UserError

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


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


SectionType = typing.TypeVar("SectionType", bound=BaseModel)


@typing.overload
def validate(model: type[SectionType], settings: Any, *, where: str) -> SectionType: ...


@typing.overload
def validate(model: Any, settings: Any, *, where: str) -> Any: ...


def validate(model: Any, settings: Any, *, where: str) -> Any:
    """Validates settings against a model, or a union of models, and turns the first complaint into one sentence.

    Raises:
        UserError: The settings are wrong; the sentence names the key, what was found and what was expected. Credentials
            are refused before anything else, in a sentence that does not repeat them.
    """
    try:
        refuse_credentials(settings, "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    try:
        return TypeAdapter(model).validate_python(settings)
    except ValidationError as error:
        raise UserError(f"{where}: {first_complaint(model, error)}") from error


def first_complaint(model: Any, error: ValidationError) -> str:
    """Returns the first complaint about settings as the end of a sentence.

    Args:
        model: The model, or union of models, that the settings were validated against.
        error: Pydantic's complaints.
    """
    complaints = error.errors(include_url=False)
    complaint = next((found for found in complaints if found["type"] == "extra_forbidden"), complaints[0])
    place = _Place.of(model, complaint["loc"])
    found, message = complaint.get("input"), complaint["msg"].removeprefix("Value error, ").rstrip(".")
    key = place.key
    match complaint["type"]:
        case "extra_forbidden":
            hint = place.hint()
            return f"unknown key {key!r}{hint}" + ("" if hint.endswith("?") else ".")
        case "missing" if place.model is not None:
            description = place.model.model_fields[place.leaf].description
            return f"{key} must be given{': ' + description if description else ''}."
        case "union_tag_invalid":
            context = complaint.get("ctx", {})
            found = context["tag"]
            key = f"{key + '.' if key else ''}{context['discriminator'].strip(chr(39))}"
            message = f"Input should be {' or '.join(context['expected_tags'].rsplit(', ', 1))}"
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool | list | tuple) else ""
    return f"{key + ': ' if key else ''}{message}{shown}."


class _Place(typing.NamedTuple):
    """Where in nested models a complaint belongs.

    Attributes:
        key: The keys that lead there, joined by dots, as a recipe writes them.
        leaf: The last of them.
        model: The model that holds `leaf`; None where no model does.
        choices: For every union on the way, innermost first, the chosen kind, and for every kind the models that would
            hold `leaf` then.
    """

    key: str
    leaf: str
    model: type[BaseModel] | None
    choices: list[tuple[str, dict[str, list[type[BaseModel]]]]]

    @classmethod
    def of(cls, model: Any, location: tuple[int | str, ...]) -> _Place:
        """Follows pydantic's location, which names the chosen kind wherever a union stands."""
        keys: list[str] = []
        models, choices = list(models_in(model)), []
        for place, part in enumerate(location):
            kinds = {kind: [option] for option in models for kind in kinds_of(option)} if len(models) > 1 else {}
            if part in kinds:
                models = kinds[str(part)]
                choices.insert(0, (str(part), kinds))
                continue
            keys.append(str(part))
            if place < len(location) - 1 and len(models) == 1 and part in models[0].model_fields:
                models = _below(models, str(part))
                choices = [
                    (chosen, {kind: _below(options, str(part)) for kind, options in kinds.items()})
                    for chosen, kinds in choices
                ]
        holder = models[0] if len(models) == 1 else None
        return cls(".".join(keys), keys[-1] if keys else "", holder, choices)

    def hint(self) -> str:
        """Returns what to write instead of an unknown key."""
        if self.model is None:
            return ""
        new = moved_names(self.model).get(self.leaf)
        if new is not None:
            return f"; it is {self.key.removesuffix(self.leaf) + new!r} now"
        if self.leaf in moved_out_names(self.model):
            return f"; it is {moved_out_names(self.model)[self.leaf]!r} now"
        for chosen, kinds in self.choices:
            others = [kind for kind, options in kinds.items() if any(self.leaf in _known(option) for option in options)]
            if others:
                return f": {chosen} has no such setting, only {' and '.join(others)}; leave it out"
        names = list(self.model.model_fields)
        return nearest(self.leaf, names) or f"; valid keys here: {', '.join(names)}"


def _below(models: list[type[BaseModel]], name: str) -> list[type[BaseModel]]:
    """Returns the models that a field of some models holds."""
    fields = [model.model_fields[name] for model in models if name in model.model_fields]
    return [model for field in fields for model in models_in(field.annotation)]


def moved_names(model: type[BaseModel]) -> dict[str, str]:
    """Returns the earlier names of a model's settings, each with today's name."""
    return getattr(model, "moved", {})


def moved_out_names(model: type[BaseModel]) -> dict[str, str]:
    """Returns a model's earlier settings that are in another section of the recipe today, each with its path there."""
    return getattr(model, "moved_out", {})


def _known(model: type[BaseModel]) -> set[str]:
    return {*model.model_fields, *moved_names(model)}


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the models that an annotation names, within unions and collections as well."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from models_in(part)


def kind_field(model: type[BaseModel]) -> str:
    """Returns the name of the field by which a member of a union names its kind; "" where there is none."""
    return next((name for name in ("kind", "family") if name in model.model_fields), "")


def kinds_of(model: type[BaseModel]) -> list[str]:
    """Returns the kinds that a member of a union stands for."""
    field = model.model_fields.get(kind_field(model))
    return list(typing.get_args(field.annotation)) if field is not None else []


def nearest(name: str, valid: list[str]) -> str:
    """Returns the hint "did you mean …?" for a name that is almost a valid one, else an empty text."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
