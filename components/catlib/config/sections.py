"""What every part of a recipe shares: its base class, its number types, and complaints as one sentence."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

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


def default_kind(key: str, kind: str) -> BeforeValidator:
    """Lets settings leave out which member of a union they are of.

    A section whose settings depend on its kind is a union of models, each with a `Literal` field that names its kind:

        Generator = Annotated[Inception | Spade, Field(discriminator="family"), default_kind("family", "inception")]

    Args:
        key: The field that names the kind.
        kind: What it means when it is left out.
    """

    def fill_in(settings: Any) -> Any:
        return {key: kind, **settings} if isinstance(settings, Mapping) else settings

    return BeforeValidator(fill_in)


SectionType = typing.TypeVar("SectionType", bound=BaseModel)


@typing.overload
def validate(model: type[SectionType], settings: Any, *, where: str) -> SectionType: ...


@typing.overload
def validate(model: Any, settings: Any, *, where: str) -> Any: ...


def validate(model: Any, settings: Any, *, where: str) -> Any:
    """Validates settings against a model, or a union of models, and turns the first complaint into one sentence.

    Raises:
        UserError: Names the key, what was found and what was expected.
    """
    try:
        return TypeAdapter(model).validate_python(settings)
    except ValidationError as error:
        raise UserError(f"{where}: {first_complaint(model, error)}") from error


def first_complaint(model: Any, error: ValidationError) -> str:
    """Returns the first complaint about settings as the end of a sentence.

    Args:
        model: What they were validated against: a model or a union of models.
        error: What pydantic found.
    """
    complaint = error.errors(include_url=False)[0]
    place = _Place.of(model, complaint["loc"])
    found, message = complaint.get("input"), complaint["msg"].removeprefix("Value error, ").rstrip(".")
    key = place.key
    match complaint["type"]:
        case "extra_forbidden":
            return f"unknown key {key!r}{place.hint()}."
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
        siblings: The models that could stand in its place, by their kinds.
    """

    key: str
    leaf: str
    model: type[BaseModel] | None
    siblings: dict[str, type[BaseModel]]

    @classmethod
    def of(cls, model: Any, location: tuple[int | str, ...]) -> _Place:
        """Follows pydantic's location, which names the chosen kind wherever a union stands."""
        keys: list[str] = []
        models, siblings = list(_models_in(model)), {}
        for place, part in enumerate(location):
            if len(models) > 1:
                siblings = {kind: option for option in models for kind in _kinds(option)}
                if part in siblings:
                    models = [siblings[str(part)]]
                    continue
            keys.append(str(part))
            if place < len(location) - 1 and len(models) == 1 and part in models[0].model_fields:
                models, siblings = list(_models_in(models[0].model_fields[str(part)].annotation)), {}
        holder = models[0] if len(models) == 1 else None
        return cls(".".join(keys), keys[-1] if keys else "", holder, siblings)

    def hint(self) -> str:
        """Returns what to write in the place of an unknown key."""
        if self.model is None:
            return ""
        others = [kind for kind, other in self.siblings.items() if self.leaf in other.model_fields]
        if others:
            own = next(kind for kind, other in self.siblings.items() if other is self.model)
            return f": {own} has no such setting, only {' and '.join(others)}; leave it out"
        names = list(self.model.model_fields)
        return nearest(self.leaf, names) or f"; valid keys here: {', '.join(names)}"


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yields the models that an annotation names, within unions and collections as well."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in typing.get_args(annotation):
        yield from _models_in(part)


def _kinds(model: type[BaseModel]) -> list[str]:
    """Returns the values of a model's fields that can only have one: among them the one that names its kind."""
    literals = [field.annotation for field in model.model_fields.values()]
    return [
        typing.get_args(literal)[0]
        for literal in literals
        if typing.get_origin(literal) is typing.Literal and len(typing.get_args(literal)) == 1
    ]


def nearest(name: str, valid: list[str]) -> str:
    """Returns the hint "did you mean …?" for a name that is almost a valid one, else an empty text."""
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
