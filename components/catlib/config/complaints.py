"""Validates settings, and turns the first complaint about them into one sentence that a user can follow."""

from __future__ import annotations

import difflib
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel, TypeAdapter, ValidationError

from components.catlib.config.sections import (
    addresses_in,
    kind_field,
    kinds_of,
    models_in,
    moved_names,
    moved_out_names,
)
from components.catlib.credentials import refuse_credentials
from components.catlib.errors import UserError

MOST_PLACES = 3
"""An unknown key that is a setting in more places is not taken for one of them."""

SectionType = typing.TypeVar("SectionType", bound=BaseModel)


class WrongSetting(UserError):
    """A setting is wrong.

    Attributes:
        key: The setting, as a recipe writes it; "" if the whole is wrong.
        complaint: What is wrong, without where the setting comes from.
    """

    def __init__(self, where: str, key: str, complaint: str) -> None:
        """Makes the sentence; `where` is the origin of the settings."""
        super().__init__(f"{where}: {complaint}")
        self.key = key
        self.complaint = complaint


@typing.overload
def validate(model: type[SectionType], settings: Any, *, where: str) -> SectionType: ...


@typing.overload
def validate(model: Any, settings: Any, *, where: str) -> Any: ...


def validate(model: Any, settings: Any, *, where: str) -> Any:
    """Validates settings against a model, or a union of models, and turns the first complaint into one sentence.

    Raises:
        WrongSetting: The settings are wrong; the sentence names the key, what was found and what was expected.
        UserError: They hold credentials, which are refused before anything else, in a sentence that does not repeat
            them.
    """
    try:
        refuse_credentials(settings, "")
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    try:
        return TypeAdapter(model).validate_python(settings)
    except ValidationError as error:
        raise WrongSetting(where, *first_complaint(model, error)) from error


def first_complaint(model: Any, error: ValidationError) -> tuple[str, str]:
    """Returns the key of the first complaint about settings, and the complaint as the end of a sentence.

    Args:
        model: The model, or union of models, that the settings were validated against.
        error: Pydantic's complaints.
    """
    complaints = error.errors(include_url=False)
    complaint: Any = next((found for found in complaints if found["type"] == "extra_forbidden"), complaints[0])
    location = tuple(part for part in complaint["loc"] if part != "[key]")
    place = _Place.of(model, location)
    key, found = place.key, complaint.get("input")
    context = complaint.get("ctx", {})
    match complaint["type"]:
        case "extra_forbidden":
            hint = place.hint(model)
            return key, f"unknown key {key!r}{hint}" + ("" if hint.endswith("?") else ".")
        case "missing" if place.model is not None and place.leaf in place.model.model_fields:
            description = place.model.model_fields[place.leaf].description
            return key, f"{key} must be given{': ' + description if description else ''}."
        case "missing" | "too_short" | "too_long" | "tuple_type" | "list_type":
            key, message = place.of_list(complaint["type"], context, found)
        case "model_type" | "model_attributes_type" | "dict_type":
            message = place.of_group(found)
        case "union_tag_invalid":
            found = context["tag"]
            found = None if found == "None" else found
            key = f"{key + '.' if key else ''}{context['discriminator'].strip(chr(39))}"
            message = f"must be {' or '.join(context['expected_tags'].rsplit(', ', 1))}"
        case "string_pattern_mismatch" if place.field is not None and place.field.description:
            message = f"has the wrong form ({place.field.description})"
        case _:
            message = _plain(complaint["type"], complaint["msg"].removeprefix("Value error, ").rstrip("."))
    return key, f"{key + ': ' if key else ''}{message}{_shown(found)}."


_PLAIN = {
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be a text, in quotes if YAML takes it for something else",
}
"""What is expected, by pydantic's name of the complaint; other complaints are readable as they are."""


def _plain(kind: str, message: str) -> str:
    return _PLAIN.get(kind, message.replace("Input should be", "must be", 1))


def _shown(found: Any) -> str:
    if found is None:
        return " (found null)"
    return f" (found {found!r})" if isinstance(found, str | int | float | bool | list | tuple) else ""


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

    @property
    def field(self) -> Any:
        """The setting in its model; None where there is none."""
        return self.model.model_fields.get(self.leaf) if self.model is not None else None

    def hint(self, root: Any) -> str:
        """Returns what to write instead of an unknown key; `root` is the model of the whole."""
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
        return nearest(self.leaf, names) or self._elsewhere(root) or f"; valid keys here: {', '.join(names)}"

    def _elsewhere(self, root: Any) -> str:
        """Returns where else there is a setting of this name: further down, or anywhere in the whole."""
        assert self.model is not None
        prefix = self.key.removesuffix(self.leaf)
        here = [prefix + path for path in _paths(self.model, self.leaf)]
        found = here or [path for option in models_in(root) for path in _paths(option, self.leaf)]
        depth = min((path.count(".") for path in found), default=0)
        found = list(dict.fromkeys(path for path in found if path.count(".") == depth))
        return f"; did you mean {' or '.join(map(repr, found))}?" if 0 < len(found) <= MOST_PLACES else ""

    def of_list(self, complaint: str, context: dict[str, Any], found: Any) -> tuple[str, str]:
        """Returns the key and the message for a value that is no list, or a list of another length."""
        default = self.field.default if self.field is not None else None
        listed = default if isinstance(default, tuple) else ()
        plain = () if any(isinstance(each, BaseModel) for each in listed) else listed
        key, example = self.key, list(plain) or None
        match complaint:
            case "missing":  # an element of a list
                key, _, _ = self.key.rpartition(".")
                return key, f"needs {int(self.leaf) + 1} values" if self.leaf.isdecimal() else "is incomplete"
            case "too_short":
                return key, f"needs at least {context['min_length']} value"
            case "too_long":
                return key, f"takes at most {context['max_length']} values"
        if example is None and isinstance(found, str | int | float):
            example = f"[{found}]"
        return key, f"must be a list{f', such as {example}' if example is not None else ''}"

    def of_group(self, found: Any) -> str:
        """Returns the message for a value where settings with names belong."""
        annotation = self.field.annotation if self.field is not None else None
        below = list(models_in(annotation)) if typing.get_origin(annotation) is not dict else []
        if not below:
            return "must be a mapping of names to values"
        for path in (path for model in below for path in _meant(model, found)):
            return f"this is a group of settings; set {self.key}.{path}: {found}"
        kind = kind_field(below[0])
        example = f"{kind}: {kinds_of(below[0])[0]}" if len(below) > 1 else next(iter(below[0].model_fields))
        advice = "leave it out for the defaults, or " if self.field is not None and not self.field.is_required() else ""
        return f"this is a group of settings; {advice}name one of them, such as {self.key}.{example}"


def _meant(model: type[BaseModel], found: Any) -> Iterator[str]:
    """Yields the settings in a group for which a single word may have been meant."""
    if not isinstance(found, str):
        return
    for name, field in model.model_fields.items():
        if found in typing.get_args(field.annotation):
            yield name
    is_path = any(mark in found for mark in "./:")
    texts = [name for name, field in model.model_fields.items() if field.annotation in (str, str | None)]
    if texts and (is_path or texts[0] in addresses_in(model)):
        yield texts[0]
    elif is_path:
        yield from (
            f"{name}.{inner}"
            for name, field in model.model_fields.items()
            for part in models_in(field.annotation)
            if addresses_in(part)
            for inner in _meant(part, found)
        )


def _paths(model: type[BaseModel], name: str) -> Iterator[str]:
    """Yields where in a model, and in the models within it, there is a setting of a name."""
    if name in model.model_fields:
        yield name
    for outer, field in model.model_fields.items():
        for part in models_in(field.annotation):
            yield from (f"{outer}.{path}" for path in _paths(part, name))


def _below(models: list[type[BaseModel]], name: str) -> list[type[BaseModel]]:
    """Returns the models that a field of some models holds."""
    fields = [model.model_fields[name] for model in models if name in model.model_fields]
    return [model for field in fields for model in models_in(field.annotation)]


def _known(model: type[BaseModel]) -> set[str]:
    return {*model.model_fields, *moved_names(model)}


def nearest(name: str, valid: list[str]) -> str:
    """Returns the hint "did you mean …?" for a name that is almost a valid one, else an empty text.

    A single word in common makes no hint: `hidden_channels` is not `base_channels`.
    """
    close = difflib.get_close_matches(name, valid, n=len(valid) or 1, cutoff=0.5)
    alike = next((other for other in close if _alike(name, other)), None)
    return f"; did you mean {alike!r}?" if alike else ""


def _alike(name: str, other: str) -> bool:
    """Returns whether one name may be meant by the other: mistyped, or shortened by whole words."""
    if difflib.SequenceMatcher(None, name.replace("_", ""), other.replace("_", "")).ratio() >= 0.8:
        return all(_has(word, other) for word in name.split("_")) or "_" not in name
    return all(_has(word, other) for word in name.split("_")) or all(_has(word, name) for word in other.split("_"))


def _has(word: str, name: str) -> bool:
    return bool(difflib.get_close_matches(word, name.split("_"), n=1, cutoff=0.7))
