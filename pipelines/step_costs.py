"""Measured costs of optimisation steps: the one place from which GPU-hours are foretold."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict

from components.catlib.config import Recipe
from components.catlib.config.sections import Positive

FILE = Path(__file__).with_name("step_costs.yaml")
"""The measurements; the file says how they are written."""


class StepCost(BaseModel):
    """The measured cost of a step of one training.

    Attributes:
        recipe: Name of the recipe.
        stage: "teacher" or "distill".
        batch_size: Images per step.
        precision: As in the recipe.
        seconds: Seconds per step, the median.
        device: Name of the GPU.
        date: When it was measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe: str
    stage: str
    batch_size: int
    precision: str
    seconds: Positive
    device: str
    date: datetime.date

    def fits(self, recipe: Recipe, stage: str) -> bool:
        """Returns whether it was measured with what decides the cost of a recipe's step."""
        section = getattr(recipe, stage)
        settings = (recipe.name, stage, section.batch_size, section.precision)
        return (self.recipe, self.stage, self.batch_size, self.precision) == settings


def step_costs(file: Path = FILE) -> list[StepCost]:
    """Reads the measurements."""
    return [StepCost.model_validate(entry) for entry in yaml.safe_load(file.read_text(encoding="utf-8"))["steps"]]


def gpu_hours(recipe: Recipe, stage: str, steps: int, costs: list[StepCost]) -> Iterator[str]:
    """Yields a sentence for every GPU on which a step of this training was measured.

    Args:
        recipe: The recipe.
        stage: "teacher" or "distill".
        steps: Number of its steps.
        costs: The measurements.
    """
    for cost in costs:
        if cost.fits(recipe, stage):
            hours = steps * cost.seconds / 3600
            yield (
                f"GPU-hours of {stage}: about {hours:.3g} on one {cost.device} "
                f"({cost.seconds:.3g} s per step, measured on {cost.date})"
            )
