"""A grid that is too large for one sweep, as a series of sweeps: each compares its students with those before."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catlib.config import Recipe
from components.catlib.errors import UserError
from components.catlib.reporting.standings import MOST_STUDENTS
from components.sweep.stage import divided
from pipelines.parameters import with_arguments


@dataclass(frozen=True)
class Part:
    """One run of a series; most series have one.

    Attributes:
        number: Its number, counted from 1.
        count: Number of runs.
        grid: Budgets, variations and seeds of this run.
    """

    number: int = 1
    count: int = 1
    grid: Mapping[str, Any] | None = None

    @property
    def is_last(self) -> bool:
        """Whether its report is the one that shows all students."""
        return self.number == self.count

    def arguments(self, asked: Mapping[str, Any], earlier: Sequence[str]) -> dict[str, Any]:
        """Returns the arguments of this run.

        Args:
            asked: The arguments of the whole series.
            earlier: Addresses of the reports of the runs before.
        """
        if self.grid is None:
            return dict(asked)
        return {**asked, **self.grid, "earlier_sweeps": [*asked.get("earlier_sweeps", []), *earlier]}

    def folder(self, output: Path) -> Path:
        """Returns the folder of this run's results: that of the series for the last, `NAME-sweep-N` for others."""
        return output if self.is_last else output.with_name(f"{output.name}-sweep-{self.number}")

    def described(self) -> str:
        """Returns what to say before this run starts; "" if it is the only one."""
        if self.grid is None:
            return ""
        students = len(self.grid["budgets"]) * len(self.grid["variations"]) * len(self.grid["seeds"])
        return f"sweep {self.number} of {self.count}: {students} students, seeds {self.grid['seeds']}"


def parts(recipe: Recipe, pipeline: str, arguments: Mapping[str, Any]) -> list[Part]:
    """Returns the runs that a run of a pipeline consists of.

    Args:
        recipe: The settings.
        pipeline: Name of the pipeline; only `sweep` is ever divided.
        arguments: Values of its parameters.

    Raises:
        UserError: The arguments are no valid settings, or make too many students.
    """
    if pipeline != "sweep":
        return [Part()]
    grids = sweeps(with_arguments(recipe, pipeline, arguments))
    if len(grids) == 1:
        return [Part()]
    return [Part(number, len(grids), grid) for number, grid in enumerate(grids, start=1)]


def sweeps(recipe: Recipe) -> list[dict[str, list[Any]]]:
    """Returns budgets, variations and seeds of every sweep that a recipe's grid makes.

    Raises:
        UserError: Their last report could not hold all students.
    """
    grids = list(divided(recipe.budgets, recipe.sweep.variations, recipe.sweep.seeds))
    students = sum(math.prod(map(len, grid.values())) for grid in grids)
    if students > MOST_STUDENTS:
        budgets, variations, seeds = map(len, (recipe.budgets, recipe.sweep.variations, recipe.sweep.seeds))
        raise UserError(
            f"{budgets} budgets, {variations} variations and {seeds} seeds make {students} students, but a report "
            f"compares at most {MOST_STUDENTS}; give fewer of them."
        )
    return grids
