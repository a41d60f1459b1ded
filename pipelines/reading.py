"""What the stages of a run read from outside it, by setting: images, weights, and models of earlier runs.

A recipe names more than a run reads: weights of a loss that is turned off, a teacher's settings in a pipeline that
trains none. What no stage reads need not be there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from components.catlib.config import Recipe, TrainingConfig
from components.catlib.recipes import with_files
from components.fetch.stage import STATE_DICTS
from pipelines.parameters import PARAMETERS, earlier_addresses

TRAINS_TEACHER = ("compress", "sweep")
"""The pipelines that train a teacher of their own."""


class Reading(NamedTuple):
    """What a stage reads from outside: its address, and the SHA-256 that it must have, if any."""

    address: str
    sha256: str | None = None


def readings(recipe: Recipe, pipeline: str, arguments: Mapping[str, Any]) -> dict[str, Reading]:
    """Returns what the stages of a run read, by setting.

    Args:
        recipe: The recipe, with the arguments' settings.
        pipeline: Name of the pipeline.
        arguments: Arguments of the pipeline.
    """
    found: dict[str, Reading] = {}
    for section, settings in recipe.model_dump(mode="json").items():
        if section in sections_of(pipeline) and section not in ("teacher", "distill", "sweep"):
            found |= readings_in(settings, section)
    if recipe.real_stats.features != "inception":
        found = {setting: reading for setting, reading in found.items() if not setting.startswith("real_stats.")}
    earlier = earlier_addresses(pipeline, arguments)
    if pipeline in TRAINS_TEACHER:
        found |= _new(_read_by_training(recipe.teacher, "teacher"), found)
    elif any(str(address).endswith(STATE_DICTS) for _, address in earlier):
        found |= _discriminator_of_published(recipe)
    for name, config in _distillations(recipe, pipeline):
        found |= _new(_of_direction(_read_by_training(config, name), name, recipe.prune.generator), found)
    found |= {
        f"the earlier {what} {number}": Reading(address) for number, (what, address) in enumerate(earlier, start=1)
    }
    return {setting: reading for setting, reading in found.items() if _is_given(reading.address)}


def _new(more: dict[str, Reading], found: dict[str, Reading]) -> dict[str, Reading]:
    """Returns what no other setting names; a recipe's segmenter counts for its trainings, too."""
    return {setting: reading for setting, reading in more.items() if reading not in found.values()}


def _is_given(address: Any) -> bool:
    return isinstance(address, str) and bool(address.strip())


def sections_of(pipeline: str) -> set[str]:
    """Returns the names of the recipe's sections that stages of a pipeline get."""
    return {each.setting.partition(".")[0] for each in PARAMETERS[pipeline] if each.setting}


def readings_in(settings: Any, path: str) -> dict[str, Reading]:
    """Returns everything outside that settings name, by setting.

    Args:
        settings: A recipe or a part of it, as JSON values.
        path: Name of the part; "" for a recipe.
    """
    found: dict[str, Reading] = {}

    def note(part: dict[str, Any], key: str, where: str) -> dict[str, Any]:
        found[f"{where}.{key}"] = Reading(part[key], part.get("sha256"))
        return part

    with_files(settings, note, path=path)
    return found


def _distillations(recipe: Recipe, pipeline: str) -> Iterator[tuple[str, TrainingConfig]]:
    """Yields the settings of every distillation of a pipeline, and their name."""
    if pipeline == "sweep":
        for number, student in enumerate(recipe.variations()):
            yield f"sweep.variations[{number}]" if recipe.sweep.variations[number] else "distill", student.distill
    elif "distill" in sections_of(pipeline):
        yield "distill", recipe.distill


def _read_by_training(config: TrainingConfig, name: str) -> dict[str, Reading]:
    """Returns what a training reads: no segmenter unless it evaluates, no weights of a loss that is turned off."""
    found = readings_in(config.model_dump(mode="json"), name)
    evaluates = config.evaluations > 0 and config.trains
    perceptual = getattr(config, "perceptual", None)
    unread = [f"{name}.segmenter."] * (not evaluates)
    unread += [f"{name}.perceptual."] * (perceptual is not None and perceptual.weight == 0)
    return {setting: reading for setting, reading in found.items() if not setting.startswith(tuple(unread))}


def _of_direction(found: dict[str, Reading], name: str, generator: str) -> dict[str, Reading]:
    """Leaves out published networks of the direction that is not compressed, which a distillation does not read."""
    backward = generator == "target_to_source"

    def is_read(setting: str) -> bool:
        rest = setting.removeprefix(f"{name}.published.")
        return rest == setting or rest.partition(".")[0].endswith("_backward") == backward

    return {setting: reading for setting, reading in found.items() if is_read(setting)}


def _discriminator_of_published(recipe: Recipe) -> dict[str, Reading]:
    """Returns the one file that a teacher which is a published state dict takes from the teacher section."""
    found = readings_in(recipe.teacher.model_dump(mode="json"), "teacher")
    backward = recipe.prune.generator == "target_to_source"
    setting = f"teacher.published.discriminator{'_backward' if backward else ''}.uri"
    return {setting: found[setting]} if setting in found else {}
