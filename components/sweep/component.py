"""The plan of a sweep as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def plan_sweep(
    budgets: List[str],
    variations: List[dict],
    seeds: List[int],
    prune: dict,
    distill: dict,
    seconds: float,
    code_digest: str,
    summary: dsl.Output[dsl.Markdown],
) -> List[dict]:
    """Lists every combination of a budget, a variation of the distillation and a seed.

    Args:
        budgets: MACs such as 2.6e9, shares of the teacher's such as 0.05x, or milliseconds such as 15ms.
        variations: Changes to the `distill` section and, as `prune`, to that one.
        seeds: Seeds that replace the one of the `distill` section.
        prune: The recipe's `prune` section.
        distill: The recipe's `distill` section.
        seconds: Cost of every student's training, which gives its steps; 0: all train as long as `distill` says.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        summary: The combinations.

    Returns:
        For each combination its budget, `prune` section and `distill` section.
    """
    from components.kubeflow import stage_process

    with stage_process("sweep", code_digest):
        from pathlib import Path

        from components.catlib.disk import writing_to
        from components.sweep.stage import markdown, plan

        points = plan(budgets, variations, seeds, prune=prune, distill=distill, seconds=seconds)
        with writing_to(Path(summary.path)):
            Path(summary.path).write_text(markdown(budgets, variations, seeds, points), encoding="utf-8")
        return points
