"""The teacher stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def train_teacher(
    config: dict,
    code_digest: str,
    dataset: dsl.Input[dsl.Dataset],
    real_stats: dsl.Input[dsl.Artifact],
    teacher: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Trains the large generator that is compressed later.

    Args:
        config: The recipe's `teacher` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        dataset: Packed images.
        real_stats: Statistics of real images, for scores during training.
        teacher: Generator(s) and discriminator(s).
        metrics: Scores at the end of training.
        page: Figures, settings, curves, and samples as they changed during training.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("teacher", code_digest):
        from pathlib import Path

        from components.catlib.config import TeacherConfig, validate
        from components.catlib.distributed.launching import on_every_gpu
        from components.teacher.stage import run

        section = validate(TeacherConfig, config, where="teacher")
        on_every_gpu(
            run,
            section,
            dataset=Path(dataset.path),
            real_stats=Path(real_stats.path),
            output=Path(teacher.path),
        )
        publish(teacher, metrics=metrics, page=page)
