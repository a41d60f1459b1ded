"""Distillation without training: makes students of an earlier run's teacher, or of a published one."""

from __future__ import annotations

from types import SimpleNamespace

from kfp import dsl

from components.fetch.component import fetch_teacher
from pipelines.graphs import check_needs, make_student, pipeline, prepare_images, report_students
from pipelines.resources import Placement


@pipeline(
    "distill-only",
    description="Students of an earlier teacher. {description}",
    title="CAT: {name}, distillation only",
)
def distill_only_pipeline(given: SimpleNamespace, placement: Placement) -> dsl.Artifact:
    """Compresses a teacher of an earlier run, or a published one, to one or several compute budgets.

    Returns:
        The report with every student's ONNX file, weights and metrics.
    """
    images = prepare_images(given, placement)
    fetched = fetch_teacher(
        address=given.teacher,
        version=given.model_version,
        config=given.teacher_settings,
        prune=given.prune,
        code_digest=placement.code_digest("fetch_teacher"),
        dataset=images.dataset,
    )
    teacher = placement.place("other", fetched).after(check_needs(given, placement, images)).outputs["teacher"]
    with dsl.ParallelFor(given.budgets, name="students", parallelism=placement.parallel_students) as budget:
        student = make_student(given, placement, images=images, teacher=teacher, budget=budget)
    # An earlier teacher was made from another run's dataset artifact, so it is no part of this run's report.
    return report_students(given, placement, images=images, student=student)
