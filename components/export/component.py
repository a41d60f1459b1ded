"""The export stage as a Kubeflow component."""

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def export_student(
    config: dict,
    code_digest: str,
    student: dsl.Input[dsl.Model],
    teacher: dsl.Input[dsl.Model],
    dataset: dsl.Input[dsl.Dataset],
    real_stats: dsl.Input[dsl.Artifact],
    exported: dsl.Output[dsl.Model],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Writes the student as an ONNX file and checks that the file computes the same images.

    Args:
        config: The recipe's `export` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        student: The trained student.
        teacher: The student's teacher, timed beside it in ONNX Runtime.
        dataset: Packed images to compare on.
        real_stats: Statistics of real images, for the scores of files of less precision.
        exported: `model.onnx`, the files of less precision that pass, and the results of the checks.
        metrics: File size, largest difference, latency.
        page: Figures and settings.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("export", code_digest):
        from pathlib import Path

        from components.catlib.config import ExportConfig, validate
        from components.export.stage import run

        run(
            validate(ExportConfig, config, where="export"),
            student=Path(student.path),
            teacher=Path(teacher.path),
            dataset=Path(dataset.path),
            real_stats=Path(real_stats.path),
            output=Path(exported.path),
        )
        publish(exported, metrics=metrics, page=page)
