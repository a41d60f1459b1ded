"""Which table of layers' times the budgets in milliseconds of a run are compared with.

A run on this machine measures its own table, once. A run on a cluster needs one from the device that its students are
meant for, because the machine that prunes may be any.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

from components.catlib.config import Recipe, WeightsConfig
from components.catlib.config.budgets import in_milliseconds
from components.catlib.errors import Unavailable, UserError
from components.catlib.exits import note
from components.catlib.latency.table import LatencyTable, open_table
from components.catlib.pruning.limits import no_table
from components.fetch.stage import STATE_DICTS
from pipelines.parameters import PARAMETERS, with_arguments


def _needs_table(recipe: Recipe, pipeline: str) -> str | None:
    """Returns the first budget in milliseconds for which a recipe names no table; None if there is none."""
    if recipe.prune.latency_table or not any(each.name == "budgets" for each in PARAMETERS[pipeline]):
        return None
    return next(filter(in_milliseconds, recipe.budgets), None)


def check_table(recipe: Recipe, pipeline: str) -> None:
    """Refuses a budget in milliseconds for which the recipe names no table.

    Raises:
        UserError: There is such a budget; the message names the command that measures a table.
    """
    if budget := _needs_table(recipe, pipeline):
        raise no_table(budget)


def table_of(recipe: Recipe) -> LatencyTable | None:
    """Returns the table that a recipe names; None if it needs none, or if it is out of reach from here.

    Raises:
        UserError: The table is damaged, or something else.
    """
    given = recipe.prune.latency_table
    if given is None or not any(map(in_milliseconds, recipe.budgets)):
        return None
    with contextlib.suppress(Unavailable):
        return open_table(given)[0]
    return None


def with_own_table(
    recipe: Recipe,
    pipeline: str,
    arguments: Mapping[str, Any],
    *,
    measure: bool,
    say: Callable[[str], None] = note,
) -> Recipe:
    """Returns a recipe whose budgets in milliseconds, if it has any, have the table of this machine, one thread.

    Args:
        recipe: The recipe.
        pipeline: Name of the pipeline.
        arguments: Arguments of the pipeline.
        measure: Whether a missing table is measured; otherwise the recipe stays without one.
        say: Function that receives a line on what is measured.

    Raises:
        UserError: The layers of the students are not known before the run.
    """
    changed = with_arguments(recipe, pipeline, arguments)
    budget = _needs_table(changed, pipeline)
    if budget is None:
        return recipe
    from components.prune.latency import Students, write_table

    teacher = arguments.get("teacher")
    if isinstance(teacher, str) and teacher.endswith(STATE_DICTS):
        raise UserError(
            f"Budget {budget} needs a table of layers' times, and {teacher} is a state dict, whose layers are "
            "not known before the run; make an artifact of it with a budget in MACs, and measure with "
            "`python -m components measure-latency --teacher ARTIFACT --output table.json`."
        )
    students = Students.of_recipe(changed) if teacher is None else Students.of_teacher(changed, str(teacher))
    path = students.own_path()
    if not path.is_file():
        if not measure:
            return recipe
        say(f"budget {budget}: measuring the times of layers on this machine, once; they are kept in {path}")
        write_table(lambda: students.measure(threads=1), path)
    given = WeightsConfig(uri=str(path))
    return recipe.model_copy(update={"prune": recipe.prune.model_copy(update={"latency_table": given})})
