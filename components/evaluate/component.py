"""The evaluate stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def evaluate_student(
    config: dict,
    code_digest: str,
    student: dsl.Input[dsl.Model],
    teacher: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    real_stats: dsl.Input[dsl.Artifact],
    evaluation: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Scores the student and its teacher on held-out images.

    Args:
        config: The recipe's `evaluate` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        student: The trained student.
        teacher: The student's teacher, or the student itself to measure it alone.
        dataset: Packed images.
        real_stats: Statistics of real images.
        evaluation: Metrics with their protocol, and pictures.
        metrics: Headline figures.
        page: Samples, student and teacher side by side and, with a segmenter, class by class.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("evaluate", code_digest):
        from pathlib import Path

        from components.catlib.artifacts import read_manifest
        from components.catlib.config import EvaluateConfig, validate
        from components.evaluate.stage import run

        digests = {read_manifest(Path(model.path)).digest() for model in (student, teacher)}
        run(
            validate(EvaluateConfig, config, where="evaluate"),
            student=Path(student.path),
            teacher=Path(teacher.path) if len(digests) == 2 else None,
            dataset=Path(dataset.path),
            real_stats=Path(real_stats.path),
            output=Path(evaluation.path),
        )
        publish(evaluation, metrics=metrics, page=page)
