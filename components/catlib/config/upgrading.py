"""Brings sections that version 0.1.0 wrote into today's form; checkpoints of that version hold them.

A section of 0.1.0 held the settings of every kind side by side; those of other kinds had no effect.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from components.catlib.config.sections import kind_field, kinds_of, models_in, moved_names, moved_out_names, spelled_out
from components.catlib.config.training import TrainingConfig


def upgraded(settings: Mapping[str, Any], model: type[TrainingConfig]) -> dict[str, Any]:
    """Returns a teacher or distill section in today's form, not yet validated.

    Args:
        settings: The section as JSON values; it is returned unchanged if none of its names has moved.
        model: The model of the teacher's family.
    """
    moved, moved_out = moved_names(model), moved_out_names(model)
    if settings.keys().isdisjoint({*moved, *moved_out}):
        return dict(settings)
    result: dict[str, Any] = {"family": kinds_of(model)[0]}
    for name, value in settings.items():
        section, _, leaf = moved.get(name, name).partition(".")
        if leaf:
            result[section] = result.get(section, {}) | {leaf: value}
        elif isinstance(value, str) and _sections(model, name):
            result[name] = result.get(name, {}) | spelled_out(value)
        else:
            result[name] = value
    return _with_effect(result, model)


def _with_effect(settings: Mapping[str, Any], model: type[BaseModel]) -> dict[str, Any]:
    """Leaves out settings that a model does not have, and nulls that it no longer takes."""
    kept = {}
    for name, value in settings.items():
        field = model.model_fields.get(name)
        if field is None or (value is None and field.default is not None):
            continue
        sections = _sections(model, name)
        if isinstance(value, Mapping) and sections:
            kind = value.get(kind_field(sections[0]))
            value = _with_effect(value, next((option for option in sections if kind in kinds_of(option)), sections[0]))
        kept[name] = value
    return kept


def _sections(model: type[BaseModel], name: str) -> list[type[BaseModel]]:
    field = model.model_fields.get(name)
    return list(models_in(field.annotation)) if field is not None else []
