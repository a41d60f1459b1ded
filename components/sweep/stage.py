"""The plan of a sweep: the students of a grid, and the division of a large grid into several sweeps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.catlib.config import Section, TrainingConfig, student_sections, validate
from components.catlib.config.sweep import STEP_SECONDS
from components.catlib.errors import UserError

MOST_STUDENTS = 12
"""Kubeflow's status of a loop becomes unreliable with many iterations."""


def plan(
    budgets: Sequence[str],
    variations: Sequence[dict[str, Any]],
    seeds: Sequence[int],
    *,
    prune: dict[str, Any],
    distill: dict[str, Any],
    seconds: float,
) -> list[dict[str, Any]]:
    """Lists every combination of a budget, a variation and a seed.

    Args:
        budgets: MACs such as 2.6e9, shares of the teacher's such as 0.05x, or milliseconds such as 15ms.
        variations: Changes to the sections, as in `sweep.variations`.
        seeds: Seeds that replace the one of the `distill` section.
        prune: The recipe's `prune` section.
        distill: The recipe's `distill` section.
        seconds: Cost of every training, as `sweep.seconds`.

    Returns:
        For each combination its `budget`, `prune` section and `distill` section.

    Raises:
        UserError: There are no combinations or too many, or one of them is not a valid section.
    """
    count = len(budgets) * len(variations) * len(seeds)
    if not 0 < count <= MOST_STUDENTS:
        raise UserError(
            f"{len(budgets)} budgets, {len(variations)} variations and {len(seeds)} seeds make {count} students; a "
            f"sweep makes 1 to {MOST_STUDENTS}, because Kubeflow loses track of longer loops."
        )
    students = [student_sections(each, prune=prune, distill=distill, seconds=seconds) for each in variations]
    return [
        {"budget": budget, "prune": _as_json(student.prune), "distill": _as_json(_seeded(student.distill, seed))}
        for budget in budgets
        for student in students
        for seed in seeds
    ]


def _seeded(distill: TrainingConfig, seed: int) -> TrainingConfig:
    return validate(type(distill), _as_json(distill) | {"seed": seed}, where="sweep.seeds")


def _as_json(section: Section) -> dict[str, Any]:
    return section.model_dump(mode="json", exclude_none=True)


def divided(
    budgets: Sequence[str], variations: Sequence[dict[str, Any]], seeds: Sequence[int]
) -> Iterator[dict[str, list[Any]]]:
    """Divides a grid into grids that are small enough for a sweep, by seeds before variations before budgets.

    So that sweeps are compared like with like, each has all variations wherever they fit.

    Yields:
        `budgets`, `variations` and `seeds` of a sweep.
    """
    for of_budgets in _parts(budgets, MOST_STUDENTS):
        for of_variations in _parts(variations, MOST_STUDENTS // len(of_budgets)):
            for of_seeds in _parts(seeds, MOST_STUDENTS // (len(of_budgets) * len(of_variations))):
                yield {"budgets": of_budgets, "variations": of_variations, "seeds": of_seeds}


def _parts(items: Sequence[Any], most: int) -> Iterator[list[Any]]:
    """Yields parts of a list with at most so many items, as equal in length as they can be."""
    count = -(-len(items) // max(1, most))
    for number in range(count):
        yield list(items[number * len(items) // count : (number + 1) * len(items) // count])


def markdown(
    budgets: Sequence[str], variations: Sequence[dict[str, Any]], seeds: Sequence[int], points: Sequence[dict[str, Any]]
) -> str:
    """Describes a plan in Markdown, a row per student, with the steps of its training where they are given."""
    names = [
        f"{budget} | {', '.join(_differences(variation)) or 'none'} | {seed:.0f}"
        for budget in budgets
        for variation in variations
        for seed in seeds
    ]
    steps = [point["distill"].get("steps", "as many as its epochs have") for point in points]
    rows = [f"| {name} | {length} |" for name, length in zip(names, steps, strict=True)]
    head = ["| budget | variation | seed | steps |", "|---|---|---|---|"]
    return "\n".join([f"# {len(rows)} students", "", *head, *rows, ""])


def _differences(variation: Mapping[str, Any]) -> list[str]:
    """Returns name and value of every setting, such as "distiller.weight 0.0"."""
    texts = []
    for key, value in variation.items():
        if key != STEP_SECONDS:
            nested = isinstance(value, dict)
            texts += [f"{key}.{text}" for text in _differences(value)] if nested else [f"{key} {value}"]
    return texts
