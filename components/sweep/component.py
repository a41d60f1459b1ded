"""The plan of a sweep as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def plan_sweep(budgets: List[str], lambdas_distill: List[float], distill: dict, most: int) -> List[dict]:
    """Lists every combination of a budget and a weight of the distillation loss.

    Args:
        budgets: MACs such as 2.6e9, or shares of the teacher's such as 0.05x.
        lambdas_distill: Weights of the distillation loss.
        distill: The recipe's `distill` section.
        most: More combinations than this are refused.

    Returns:
        Per combination its budget and its `distill` section.
    """
    from components.catlib.config import DistillConfig, validate
    from components.catlib.errors import UserError
    from components.kubeflow import stage_process

    with stage_process("sweep"):
        count = len(budgets) * len(lambdas_distill)
        if not 0 < count <= most:
            raise UserError(
                f"{len(budgets)} budgets times {len(lambdas_distill)} weights of the distillation loss are {count} "
                f"students; a sweep makes 1 to {most:.0f}, for Kubeflow loses track of longer loops."
            )
        points = [
            {"budget": budget, "distill": distill | {"lambda_distill": weight}}
            for budget in budgets
            for weight in lambdas_distill
        ]
        for point in points:
            validate(DistillConfig, point["distill"], where="distill")
        return points
