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
    checkpoint: str = "",
) -> None:
    """Trains the large generator that is compressed later.

    Args:
        config: The recipe's `teacher` section.
        code_digest: Digest of the code, part of the cache key.
        dataset: Packed images.
        real_stats: Statistics of real images, for scores during training.
        teacher: Generator(s) and discriminator(s).
        metrics: Scores at the end of training.
        checkpoint: Where training state is kept so that a killed run resumes; empty: nowhere.
    """
    from pathlib import Path

    from components.catlib.config import TeacherConfig, validate
    from components.kubeflow import publish, stage_process
    from components.teacher.stage import run

    with stage_process("teacher"):
        run(
            validate(TeacherConfig, config, where="teacher"),
            dataset=Path(dataset.path),
            real_stats=Path(real_stats.path),
            output=Path(teacher.path),
            checkpoint=checkpoint or None,
        )
        publish(teacher, metrics)
