"""Lists settings for `--help`: name, default and meaning, and the kinds that have a setting if not all have it."""

from __future__ import annotations

import json
import typing
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from components.catlib.config.sections import kind_field, kinds_of, models_in


def described(field: FieldInfo, path: str) -> Iterator[tuple[str, str]]:
    """Yields "path=default" and the description of every setting of a section and of its inner sections.

    Args:
        field: The section, such as `Recipe.model_fields["teacher"]`.
        path: Prefix of its settings, such as "teacher".
    """
    models = list(models_in(field.annotation))
    if len(models) < 2:
        yield from (line for model in models for line in _of_model(model, path))
        return
    name = kind_field(models[0])
    meanings = {kind: model.model_fields[name].description or "" for model in models for kind in kinds_of(model)}
    choices = " or ".join(meanings)
    meaning = "; ".join(f"{kind}: {text}" for kind, text in meanings.items())
    if len(set(meanings.values())) == 1:
        meaning = f"{next(iter(meanings.values()))} ({choices})"
    yield f"{path}.{name}={json.dumps(getattr(field.default, name))}", meaning
    having: dict[tuple[str, str], list[str]] = {}
    for model in models:
        for line in _of_model(model, path, without=name):
            having.setdefault(line, []).extend(kinds_of(model))
    for (setting, text), kinds in having.items():
        yield setting, text if len(kinds) == len(meanings) else f"{' and '.join(kinds)}: {text}"


def _of_model(model: type[BaseModel], path: str, *, without: str = "") -> Iterator[tuple[str, str]]:
    for name, field in model.model_fields.items():
        if name == without:
            continue
        key, text = f"{path}.{name}", field.description or ""
        inner = list(described(field, key))
        if field.is_required():
            yield f"{key} (no default)", text
        elif field.default is None or not inner:
            choices = typing.get_args(field.annotation) if typing.get_origin(field.annotation) is typing.Literal else ()
            listed = f" ({' or '.join(map(str, choices))})" if len(choices) > 1 else ""
            yield f"{key}={json.dumps(_plain(field.default))}", f"{text}{listed}"
        yield from inner


def _plain(value: Any) -> Any:
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value
