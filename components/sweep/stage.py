"""The plan of a sweep: the students of a grid."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from components.catlib.config import DistillConfig, validate, varied
from components.catlib.errors import UserError

MOST_STUDENTS = 12
"""Kubeflow's status of a loop becomes unreliable with many iterations."""


def plan(
    budgets: Sequence[str], variations: Sequence[dict[str, Any]], seeds: Sequence[int], distill: dict[str, Any]
) -> list[dict[str, Any]]:
    """Lists every combination of a budget, a variation of the distillation and a seed.

    Args:
        budgets: MACs such as 2.6e9, shares of the teacher's such as 0.05x, or milliseconds such as 15ms.
        variations: Changes to the `distill` section.
        seeds: Seeds that replace the one of the `distill` section.
        distill: The recipe's `distill` section.

    Returns:
        For each combination its budget and its `distill` section.

    Raises:
        UserError: There are no combinations or too many, or one of them is not a valid section.
    """
    points = [
        {"budget": budget, "distill": varied(distill, variation) | {"seed": seed}}
        for budget in budgets
        for variation in variations
        for seed in seeds
    ]
    if not 0 < len(points) <= MOST_STUDENTS:
        raise UserError(
            f"{len(budgets)} budgets, {len(variations)} variations and {len(seeds)} seeds make {len(points)} "
            f"students; a sweep makes 1 to {MOST_STUDENTS}, because Kubeflow loses track of longer loops."
        )
    for point in points:
        validate(DistillConfig, point["distill"], where="sweep.variations")
    return points


def markdown(budgets: Sequence[str], variations: Sequence[dict[str, Any]], seeds: Sequence[int]) -> str:
    """Describes a plan in Markdown, a row per student."""
    rows = [
        f"| {budget} | {', '.join(_differences(variation)) or 'none'} | {seed:.0f} |"
        for budget in budgets
        for variation in variations
        for seed in seeds
    ]
    return "\n".join([f"# {len(rows)} students", "", "| budget | variation | seed |", "|---|---|---|", *rows, ""])


def _differences(variation: dict[str, Any]) -> list[str]:
    """Returns name and value of every setting, such as "distiller.weight 0.0"."""
    texts = []
    for key, value in variation.items():
        texts += [f"{key}.{text}" for text in _differences(value)] if isinstance(value, dict) else [f"{key} {value}"]
    return texts
