"""The plan of a sweep as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def plan_sweep(
    budgets: List[str],
    variations: List[dict],
    seeds: List[int],
    distill: dict,
    code_digest: str,
    summary: dsl.Output[dsl.Markdown],
) -> List[dict]:
    """Lists every combination of a budget, a variation of the distillation and a seed.

    Args:
        budgets: MACs such as 2.6e9, or shares of the teacher's such as 0.05x.
        variations: Changes to the `distill` section.
        seeds: Seeds that replace the one of the `distill` section.
        distill: The recipe's `distill` section.
        code_digest: Digest of the code, part of the cache key.
        summary: The combinations.

    Returns:
        For each combination its budget and its `distill` section.
    """
    from pathlib import Path

    from components.catlib.disk import writing_to
    from components.kubeflow import stage_process
    from components.sweep.stage import markdown, plan

    with stage_process("sweep"):
        points = plan(budgets, variations, seeds, distill)
        with writing_to(Path(summary.path)):
            Path(summary.path).write_text(markdown(budgets, variations, seeds), encoding="utf-8")
        return points
