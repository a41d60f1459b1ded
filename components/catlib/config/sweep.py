"""Settings of sweeps, and the sections of each student of one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from components.catlib.config.complaints import validate
from components.catlib.config.distill import DistillConfig
from components.catlib.config.sections import NonNegative, Section, listed_once, spelled_out
from components.catlib.config.student import PruneConfig
from components.catlib.config.training import FAST, LARGEST_SEED
from components.catlib.errors import UserError

STEP_SECONDS = "step_seconds"
SECONDS = "seconds"
PRUNE = "prune"
LENGTHS = frozenset({"steps", "epochs", "decay_epochs"})

MOST_STEPS = 1e12
"""More steps of a training are a mistake in `seconds` or `step_seconds`."""


class SweepConfig(Section):
    """The variations that the sweep pipeline compares; each is made for every budget with every seed."""

    variations: tuple[dict[str, Any], ...] = Field(
        default=({"distiller": "none"}, {}),
        min_length=1,
        description="changes to the distill section, one entry per variation; an entry may also hold prune (changes to "
        "the prune section), step_seconds (measured seconds of one of its steps, for sweep.seconds) and seconds (in "
        "place of sweep.seconds, where that is not 0)",
    )
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, le=LARGEST_SEED)], ...], AfterValidator(listed_once)] = Field(
        default=(0,),
        min_length=1,
        description="seeds that replace distill.seed; several show how much scores vary by chance",
    )
    seconds: NonNegative = Field(
        default=0.0,
        description="cost of every student's training: its steps become seconds / step_seconds of its variation; 0: "
        "all train as long as distill says",
    )


@dataclass(frozen=True)
class StudentSections:
    """The sections that make a student of a sweep."""

    prune: PruneConfig
    distill: DistillConfig


def student_sections(
    variation: Mapping[str, Any], *, prune: dict[str, Any], distill: dict[str, Any], seconds: float = 0.0
) -> StudentSections:
    """Returns the sections of a variation.

    Args:
        variation: An entry of `sweep.variations`.
        prune: The recipe's `prune` section as JSON values.
        distill: Its `distill` section as JSON values.
        seconds: As `sweep.seconds`.

    Raises:
        UserError: An entry or what follows from it is not valid.
    """
    changes = dict(variation)
    cut = changes.pop(PRUNE, {})
    if not isinstance(cut, Mapping) or "generator" in cut:
        raise UserError(
            f"sweep.variations: prune is {cut!r}; give changes to the prune section, such as {{student_init: "
            "inherit}, without its generator, which all students of a sweep share."
        )
    if "seed" in changes:
        raise UserError(
            f"sweep.variations: {dict(variation)} has a seed, but every variation is trained with all of sweep.seeds; "
            "give seeds there."
        )
    step_seconds, own_seconds = changes.pop(STEP_SECONDS, None), changes.pop(SECONDS, None)
    for name, value in ((STEP_SECONDS, step_seconds), (SECONDS, own_seconds)):
        if value is not None and not (_is_number(value) and value > 0):
            raise UserError(f"sweep.variations: {name} is {value!r}; give a number above 0.")
    if seconds > 0:
        if step_seconds is None or not LENGTHS.isdisjoint(changes):
            raise UserError(
                f"sweep.seconds is {seconds:g}, so each entry of sweep.variations needs its step_seconds and no steps "
                f"or epochs; {dict(variation)} is otherwise. Set sweep.seconds=0 to give lengths yourself."
            )
        if distill.get("steps") is not None:
            raise UserError(
                f"distill.steps is {distill['steps']:.0f}, but sweep.seconds is {seconds:g}, which gives each student "
                "its steps; set sweep.seconds=0 or distill.steps=null."
            )
        seconds = own_seconds or seconds
        steps = seconds / step_seconds
        if steps > MOST_STEPS:
            raise UserError(
                f"sweep.variations: {seconds:g} seconds make {steps:.2g} steps of {step_seconds:g} s, more than any "
                "training takes; correct seconds or step_seconds."
            )
        changes["steps"] = max(1, round(steps))
    return StudentSections(
        prune=validate(PruneConfig, varied(prune, cut), where="sweep.variations: prune"),
        distill=validate(DistillConfig, varied(distill, changes), where="sweep.variations"),
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def varied(settings: dict[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings after changes. Settings of a loss change one by one, unless the loss becomes another kind.

    A change of `speed` is one of all settings that it stands for.

    Args:
        settings: A section as JSON values.
        changes: The changes, in the form of a recipe.
    """
    kept = {name: value for name, value in settings.items() if "speed" not in changes or name not in FAST}
    result = {**kept, **changes}
    for key in changes:
        before, after = settings.get(key), spelled_out(changes[key])
        if not (isinstance(before, dict) and isinstance(after, dict)):
            continue
        is_loss = not before.keys().isdisjoint({"kind", "weight"})
        if is_loss and after.get("kind", before.get("kind")) == before.get("kind"):
            result[key] = before | after
    return result
