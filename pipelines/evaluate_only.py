"""Scores generators of earlier runs on given images."""

from __future__ import annotations

from types import SimpleNamespace

from kfp import dsl

from components.evaluate.component import evaluate_student
from components.fetch.component import fetch_model
from components.report.component import write_report
from pipelines.graphs import pipeline, prepare_images
from pipelines.resources import Placement


@pipeline(
    "evaluate-only",
    description="Scores of earlier generators. {description}",
    title="CAT: {name}, evaluation only",
)
def evaluate_only_pipeline(given: SimpleNamespace, placement: Placement) -> dsl.Artifact:
    """Scores generators of earlier runs, alone or compared with their teacher.

    Returns:
        The report with every generator's metrics.
    """
    images = prepare_images(given, placement)
    model = {"kind": "teacher|distill", "version": given.model_version, "code_digest": placement.code_digest("fetch")}
    with dsl.ParallelFor(given.students, name="students", parallelism=placement.parallel_students) as student:
        fetched_student = fetch_model(address=student, **model)
        # Kubeflow has no optional artifacts: without a teacher, the student stands in for it, and the evaluation
        # recognises that both are one model.
        fetched_teacher = fetch_model(address=given.teacher, otherwise=student, **model)
        evaluated = evaluate_student(
            config=given.evaluate,
            code_digest=placement.code_digest("evaluate"),
            student=fetched_student.outputs["model"],
            teacher=fetched_teacher.outputs["model"],
            dataset=images.dataset,
            real_stats=images.real_stats,
        )
        placement.place("other", fetched_student)
        placement.place("other", fetched_teacher)
        placement.place("evaluate", evaluated)
    written = write_report(
        config=given.report,
        code_digest=placement.code_digest("report"),
        dataset=images.dataset,
        real_stats=images.real_stats,
        evaluations=dsl.Collected(evaluated.outputs["evaluation"]),
    )
    return placement.place("report", written).outputs["report"]
