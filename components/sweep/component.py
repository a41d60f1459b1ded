"""The plan of a sweep as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def plan_sweep(
    budgets: List[str], variations: List[dict], seeds: List[int], distill: dict, most: int, code_digest: str
) -> List[dict]:
    """Lists every combination of a budget, a variation of the distillation and a seed.

    Args:
        budgets: MACs such as 2.6e9, or shares of the teacher's such as 0.05x.
        variations: Differences to the `distill` section.
        seeds: Replace its seed.
        distill: The recipe's `distill` section.
        most: More combinations than this are refused.
        code_digest: Digest of the code, part of the cache key.

    Returns:
        Per combination its budget and its `distill` section.
    """
    from components.catlib.config import DistillConfig, validate
    from components.catlib.errors import UserError
    from components.kubeflow import stage_process

    with stage_process("sweep"):
        points = [
            {"budget": budget, "distill": distill | variation | {"seed": seed}}
            for budget in budgets
            for variation in variations
            for seed in seeds
        ]
        if not 0 < len(points) <= most:
            raise UserError(
                f"{len(budgets)} budgets, {len(variations)} variations and {len(seeds)} seeds make {len(points)} "
                f"students; a sweep makes 1 to {most:.0f}, for Kubeflow loses track of longer loops."
            )
        for point in points:
            validate(DistillConfig, point["distill"], where="sweep.variations")
        return points
