"""The report stage as a Kubeflow component."""

from typing import List

from kfp import dsl

from components.kubeflow import DEFAULT_IMAGE


@dsl.component(base_image=DEFAULT_IMAGE, install_kfp_package=False)
def write_report(
    config: dict,
    code_digest: str,
    evaluations: dsl.Input[List[dsl.Artifact]],
    report: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    dataset: dsl.Input[dsl.Dataset] = None,
    real_stats: dsl.Input[dsl.Artifact] = None,
    teacher: dsl.Input[dsl.Model] = None,
    students: dsl.Input[List[dsl.Model]] = None,
    distilled: dsl.Input[List[dsl.Model]] = None,
    exports: dsl.Input[List[dsl.Model]] = None,
    earlier: List[str] | None = None,
    earlier_version: str = "",
) -> None:
    """Shows the whole run on one page and collects its deliverables in one folder.

    Args:
        config: The recipe's name and description, and its `tracking` section.
        code_digest: Digest of the stage's code, part of the cache key; other code is refused.
        evaluations: Metrics and pictures, one per student.
        report: `report.html`, and per student the ONNX file, weights and metrics.
        metrics: The smallest student's headline figures.
        page: The page alone, for the UI.
        dataset: Packed images.
        real_stats: Statistics of real images.
        teacher: The trained teacher.
        students: The pruned architectures, one per student.
        distilled: The trained students.
        exports: Their ONNX files.
        earlier: Addresses of the reports of earlier sweeps, whose students are compared with these.
        earlier_version: Part of the cache key: changes when the content behind those addresses does.
    """
    from components.kubeflow import publish, stage_process

    with stage_process("report", code_digest):
        import shutil
        from pathlib import Path

        from components.catlib.config import ReportConfig, validate
        from components.catlib.disk import writing_to
        from components.report.stage import fetched, run

        with fetched(earlier or []) as folders:
            run(
                validate(ReportConfig, config, where="report"),
                dataset=Path(dataset.path) if dataset else None,
                real_stats=Path(real_stats.path) if real_stats else None,
                teacher=Path(teacher.path) if teacher else None,
                students=[Path(item.path) for item in students or []],
                distilled=[Path(item.path) for item in distilled or []],
                evaluations=[Path(item.path) for item in evaluations],
                exports=[Path(item.path) for item in exports or []],
                earlier=folders,
                output=Path(report.path),
            )
        publish(report, metrics=metrics)
        with writing_to(Path(page.path)):
            shutil.copyfile(Path(report.path) / "report.html", page.path)
