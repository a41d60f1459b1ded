"""Reads recipe files, overrides their settings, and finds the outside files that they name."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from components.catlib.config.complaints import WrongSetting, nearest, validate
from components.catlib.config.recipe import Recipe
from components.catlib.config.sections import addresses_in, spelled_out, takes_text
from components.catlib.credentials import refuse_credentials, without_credentials
from components.catlib.disk import check_plain
from components.catlib.errors import UserError

RECIPE_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "recipes"

BUILT_IN = "builtin:"
"""How the names of built-in data begin, whose content is part of the code."""

ADDRESSES = tuple(sorted(addresses_in(Recipe)))
"""Names of the settings that are an `Address`, such as "source" and "uri", wherever in a recipe they stand."""

MOST_VALUES = 100_000
"""Longer documents are refused: a few lines with aliases of aliases can stand for billions of values."""

_QUOTED = re.compile(r"\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*'")
"""A text in quotes, which YAML takes off."""

DEFAULTS = {"name": "defaults", "description": "The default of every setting.", "budgets": ["0.1x"]}
"""The settings that stand in for a recipe when none is given."""


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml"))


def read_yaml(text: str, *, where: str) -> Any:
    """Reads a YAML document.

    Args:
        text: The document.
        where: Its name, which begins a message.

    Raises:
        UserError: It is not YAML, or its aliases unfold it to more than `MOST_VALUES` values.
    """
    try:
        document = yaml.safe_load(text)
    except RecursionError as error:
        raise UserError(f"{where} is nested too deeply; write it with fewer levels.") from error
    except Exception as error:  # a wrong date, number or tag makes the reader fail in any way
        reason = without_credentials(" ".join(str(error).split())) or type(error).__name__
        raise UserError(f"{where} is not YAML ({reason}).") from error
    waiting, seen = [document], 0
    while waiting:
        seen += 1
        if seen > MOST_VALUES:
            raise UserError(f"{where} holds more than {MOST_VALUES} values; write it without aliases.")
        match waiting.pop():
            case dict() as mapping:
                waiting += [*mapping.keys(), *mapping.values()]
            case list() | tuple() | set() as values:
                waiting += values
    return document


def recipe_origin(name_or_file: str) -> str:
    """Returns what tells a recipe from its copies: its name if it comes with the project, else the path of its file."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        return name_or_file
    return path.stem if path.resolve().parent == RECIPE_FOLDER else str(path.resolve())


def named_files(settings: Any) -> list[str]:
    """Returns the files and folders outside a run that settings name: every `Address` but built-in data.

    Args:
        settings: A recipe or a section of it as JSON values.
    """
    found: list[str] = []

    def note(part: dict[str, Any], key: str, _: str) -> dict[str, Any]:
        found.append(part[key])
        return part

    with_files(settings, note, path="")
    return found


def with_files(settings: Any, change: Callable[[dict[str, Any], str, str], dict[str, Any]], *, path: str) -> Any:
    """Returns settings with a change wherever they name a file outside a run; see `named_files`.

    Args:
        settings: A recipe, a section of it or arguments of a pipeline, as JSON values.
        change: Takes the part that names a file, the key of the file's address in it (one of `ADDRESSES`), and
            the part's own name, such as "evaluate.lpips.weights"; returns what replaces the part.
        path: Name of the settings; "" for a recipe.
    """
    if isinstance(settings, list):
        return [with_files(value, change, path=f"{path}[{number}]") for number, value in enumerate(settings)]
    if not isinstance(settings, dict):
        return settings
    changed = {
        # `tracking.uri` names a server, not a file.
        key: value if key == "tracking" else with_files(value, change, path=f"{path}.{key}".removeprefix("."))
        for key, value in settings.items()
    }
    for key in ADDRESSES:
        if isinstance(settings.get(key), str) and not settings[key].startswith(BUILT_IN):
            changed = change(changed, key, path)
    return changed


def load_recipe(
    name_or_file: str | None, overrides: list[str] | None = None, budgets: list[str] | None = None
) -> Recipe:
    """Reads a recipe, applies overrides and validates the whole.

    Args:
        name_or_file: A name from `recipe_names` or the path of a YAML file; None means the defaults alone.
        overrides: `SECTION.KEY=VALUE` texts; the VALUE of a text setting counts as it is typed, any other is
            read as YAML.
        budgets: Replaces the recipe's budgets; a text may hold several, separated by commas.

    Raises:
        UserError: The recipe does not exist, is not YAML, or has a value out of bounds or an unknown key; the message
            names the nearest valid key.
    """
    settings, where = (dict(DEFAULTS), "Defaults") if name_or_file is None else _read_recipe(name_or_file)
    changed = copy.deepcopy(settings)
    for override in overrides or []:
        _override(changed, override)
    if budgets:
        changed["budgets"] = [each for text in budgets for each in str(text).split(",")]
    try:
        return validate(Recipe, changed, where=where)
    except WrongSetting as wrong:
        raise _blamed(wrong, settings, overrides or [], where) from None


def _blamed(wrong: WrongSetting, settings: dict[str, Any], overrides: list[str], where: str) -> WrongSetting:
    """Returns a complaint with its origin: the overrides that led to it, or the recipe if it is wrong without them."""
    try:
        validate(Recipe, settings, where=where)
    except WrongSetting as without:
        if without.complaint == wrong.complaint:
            return without
    needed = [each for i, each in enumerate(overrides) if not _still_wrong(wrong, settings, overrides, without=i)]
    keys = {override: override.partition("=")[0].strip() for override in overrides}
    same = [each for each, key in keys.items() if f"{wrong.key}.".startswith(f"{key}.") or key.startswith(wrong.key)]
    blamed = needed[-1:] or same[-1:] or overrides
    return WrongSetting(" ".join(f"--set {each!r}" for each in blamed) or where, wrong.key, wrong.complaint)


def _still_wrong(wrong: WrongSetting, settings: dict[str, Any], overrides: list[str], *, without: int) -> bool:
    """Returns whether the same is wrong if one override, the one at an index, is left out."""
    changed = copy.deepcopy(settings)
    try:
        for override in overrides[:without] + overrides[without + 1 :]:
            _override(changed, override)
        validate(Recipe, changed, where="")
    except UserError as error:
        return isinstance(error, WrongSetting) and error.complaint == wrong.complaint
    return False


def _read_recipe(name_or_file: str) -> tuple[dict[str, Any], str]:
    """Returns the settings in a recipe file, and the file's name in messages."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPE_FOLDER / f"{name_or_file}.yaml"
        if name_or_file not in recipe_names():
            raise UserError(
                f"There is no recipe {name_or_file!r}{nearest(name_or_file, recipe_names()) or '.'} Known recipes: "
                f"{', '.join(recipe_names())}; or give the path of a .yaml file."
            )
    check_plain(path, what=f"Recipe {path}")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:  # ValueError: not UTF-8, or no path
        raise UserError(f"Recipe {path} cannot be read ({error}).") from error
    settings = read_yaml(text, where=f"Recipe {path}")
    if not isinstance(settings, dict):
        raise UserError(f"Recipe {path} is not a YAML mapping of sections.")
    return settings, f"Recipe {path.name}"


def _override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    refuse_credentials(override, f"--set {key}" if equals else "--set")
    if not equals or not key:
        raise UserError(f"--set {override!r} is not of the form SECTION.KEY=VALUE, for example teacher.epochs=2.")
    *parents, leaf = keys = key.strip().split(".")
    if not all(keys):
        raise UserError(f"--set {override!r} has an empty key between its dots; write it like teacher.epochs=2.")
    node = settings
    for parent in parents:
        node[parent] = spelled_out(node.get(parent))
        if not isinstance(node[parent], dict):
            node[parent] = {}
        node = node[parent]
    node[leaf] = _value(text, keys, override)


def _value(text: str, keys: list[str], override: str) -> Any:
    """Reads the value of an override: a text as it is typed, anything else as YAML."""
    if takes_text(Recipe, keys):
        if text.strip() in ("", "~", "null"):
            return None
        return read_yaml(text, where=f"--set {override!r}") if _QUOTED.fullmatch(text) else text
    value = read_yaml(text, where=f"The value in --set {override!r}")
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.1 reads 2e-4 as text
    return value
