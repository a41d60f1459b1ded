"""A grid: one teacher, and a student for each combination of budget, settings and seed."""

from __future__ import annotations

from types import SimpleNamespace

from kfp import dsl

from components.sweep.component import plan_sweep
from pipelines.graphs import check_needs, make_student, make_teacher, pipeline, prepare_images, report_students
from pipelines.resources import Placement


@pipeline("sweep", description="A grid of students. {description}", title="CAT: {name}, sweep")
def sweep_pipeline(given: SimpleNamespace, placement: Placement) -> dsl.Artifact:
    """Trains one teacher and makes a student for every combination of budget, variation and seed.

    Returns:
        The report with every student's ONNX file, weights and metrics.
    """
    planned = plan_sweep(
        budgets=given.budgets,
        variations=given.variations,
        seeds=given.seeds,
        prune=given.prune,
        distill=given.distill,
        seconds=given.seconds,
        code_digest=placement.code_digest("sweep"),
    )
    points = placement.place("other", planned).outputs["Output"]
    images = prepare_images(given, placement)
    checked = check_needs(given, placement, images, teacher=given.teacher, variations=given.variations)
    teacher = make_teacher(given, placement, images, checked=checked)
    with dsl.ParallelFor(points, name="students", parallelism=placement.parallel_students) as point:
        student = make_student(
            given,
            placement,
            images=images,
            teacher=teacher,
            budget=point.budget,
            prune=point.prune,
            distill=point.distill,
        )
    return report_students(
        given, placement, images=images, teacher=teacher, student=student, earlier=given.earlier_sweeps
    )
