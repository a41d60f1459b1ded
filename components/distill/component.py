"""The distill stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def distill_student(
    config: dict,
    code_digest: str,
    teacher: dsl.Input[dsl.Model],
    student: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    real_stats: dsl.Input[dsl.Artifact],
    distilled: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Trains the student with the teacher's features as a guide.

    Args:
        config: The recipe's `distill` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        teacher: The trained teacher.
        student: The student's architecture, from pruning.
        dataset: Packed images.
        real_stats: Statistics of real images, for scores during training.
        distilled: The trained student.
        metrics: Scores at the end of training.
        page: Figures, settings, curves, and samples as they changed during training.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("distill", code_digest):
        from pathlib import Path

        from components.catlib.config import DistillConfig, validate
        from components.catlib.distributed.launching import on_every_gpu
        from components.distill.stage import run

        section = validate(DistillConfig, config, where="distill")
        on_every_gpu(
            run,
            section,
            teacher=Path(teacher.path),
            student=Path(student.path),
            dataset=Path(dataset.path),
            real_stats=Path(real_stats.path),
            output=Path(distilled.path),
        )
        publish(distilled, metrics=metrics, page=page)
