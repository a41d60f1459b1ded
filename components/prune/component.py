"""The prune stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def prune_teacher(
    config: dict,
    budget: str,
    code_digest: str,
    teacher: dsl.Input[dsl.Model],
    student: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Cuts the teacher's channels until the generator costs no more than the budget.

    Args:
        config: The recipe's `prune` section.
        budget: MACs such as 2.6e9, a share of the teacher's such as 0.05x, or milliseconds such as 15ms.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        teacher: The trained teacher.
        student: The student's architecture (and weights, when inherited).
        metrics: MACs and parameters of teacher and student.
        page: Figures, settings, and the channels that survived in every layer.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("prune", code_digest):
        from pathlib import Path

        from components.catlib.config import PruneConfig, validate
        from components.prune.stage import run

        run(
            validate(PruneConfig, config, where="prune"),
            teacher=Path(teacher.path),
            budget=budget,
            output=Path(student.path),
        )
        publish(student, metrics=metrics, page=page)
