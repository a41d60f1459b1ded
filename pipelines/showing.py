"""A recipe as it is resolved: every setting, and where it differs from the recipe's file and from the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from components.catlib.config import Recipe
from components.catlib.config.dotted import leaves

_MISSING = object()


@dataclass(frozen=True)
class Resolved:
    """A recipe as JSON values, beside what it is made from.

    Attributes:
        settings: Every setting.
        written: The same of the recipe without overrides.
        defaults: The same of the defaults alone.
    """

    settings: Mapping[str, Any]
    written: Mapping[str, Any]
    defaults: Mapping[str, Any]

    @classmethod
    def of(cls, recipe: Recipe, *, written: Recipe, defaults: Recipe) -> Resolved:
        """Compares a recipe with the same one without overrides, and with the defaults alone."""
        return cls(*(each.model_dump(mode="json") for each in (recipe, written, defaults)))

    def overridden(self) -> dict[str, dict[str, Any]]:
        """Returns the settings that overrides changed, by dotted name, each as `is` and `was`.

        A setting that only one of both has is null in the other.
        """
        now, before = dict(leaves(self.settings)), dict(leaves(self.written))
        return {
            name: {"is": now.get(name), "was": before.get(name)}
            for name in [*now, *(name for name in before if name not in now)]
            if now.get(name, _MISSING) != before.get(name, _MISSING)
        }

    def text(self) -> str:
        """Returns the recipe as YAML; comments tell what is overridden, and what differs from the defaults."""
        written, defaults = dict(leaves(self.written)), dict(leaves(self.defaults))
        return "\n".join(_lines(self.settings, "", written, defaults)) + "\n"


def _lines(
    settings: Mapping[str, Any], path: str, written: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Iterator[str]:
    indent = "  " * (path.count(".") + bool(path))
    for key, value in settings.items():
        name = f"{path}.{key}".removeprefix(".")
        if isinstance(value, dict) and value:
            yield f"{indent}{_flow(key)}:"
            yield from _lines(value, name, written, defaults)
            continue
        comment = ""
        if written.get(name, _MISSING) != value:
            comment = "  # overridden" + (f"; the recipe: {_flow(written[name])}" if name in written else "")
        elif defaults.get(name, _MISSING) != value:
            comment = "  # by the recipe" + (f"; default: {_flow(defaults[name])}" if name in defaults else "")
        yield f"{indent}{_flow(key)}: {_flow(value)}{comment}"


def _flow(value: Any) -> str:
    """Returns a value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, width=float("inf"), allow_unicode=True, sort_keys=False)
    return text.removesuffix("\n").removesuffix("\n...").strip()
