"""The report stage as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def write_report(
    config: dict,
    code_digest: str,
    dataset: dsl.Input[dsl.Dataset],
    real_stats: dsl.Input[dsl.Artifact],
    teacher: dsl.Input[dsl.Model],
    students: dsl.Input[List[dsl.Model]],
    distilled: dsl.Input[List[dsl.Model]],
    evaluations: dsl.Input[List[dsl.Artifact]],
    exports: dsl.Input[List[dsl.Model]],
    report: dsl.Output[dsl.Artifact],
    page: dsl.Output[dsl.HTML],
) -> None:
    """Puts the whole run on one page and its deliverables in one folder.

    Args:
        config: What the page is called: the recipe's name and description.
        code_digest: Digest of the code, part of the cache key.
        dataset: Packed images.
        real_stats: Statistics of real images.
        teacher: The trained teacher.
        students: The pruned architectures, one per budget.
        distilled: The trained students.
        evaluations: Their metrics and pictures.
        exports: Their ONNX files.
        report: `report.html`, and per student the ONNX file, weights and metrics.
        page: The page alone, for the UI.
    """
    import shutil
    from pathlib import Path

    from components.catlib.config import ReportConfig, validate
    from components.kubeflow import publish, stage_process
    from components.report.stage import run

    with stage_process("report"):
        run(
            validate(ReportConfig, config, where="report"),
            dataset=Path(dataset.path),
            real_stats=Path(real_stats.path),
            teacher=Path(teacher.path),
            students=[Path(item.path) for item in students],
            distilled=[Path(item.path) for item in distilled],
            evaluations=[Path(item.path) for item in evaluations],
            exports=[Path(item.path) for item in exports],
            output=Path(report.path),
        )
        publish(report)
        shutil.copyfile(Path(report.path) / "report.html", page.path)
