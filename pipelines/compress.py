"""The main pipeline: makes a small generator per compute budget, and one report, from images."""

from __future__ import annotations

from types import SimpleNamespace

from kfp import dsl

from pipelines.graphs import check_needs, make_student, make_teacher, pipeline, prepare_images, report_students
from pipelines.resources import Placement


@pipeline("compress")
def compress_pipeline(given: SimpleNamespace, placement: Placement) -> dsl.Artifact:
    """Compresses an image-to-image generator to one or several compute budgets.

    Returns:
        The report with every student's ONNX file, weights and metrics.
    """
    images = prepare_images(given, placement)
    checked = check_needs(given, placement, images, teacher=given.teacher)
    teacher = make_teacher(given, placement, images, checked=checked)
    with dsl.ParallelFor(given.budgets, name="students", parallelism=placement.parallel_students) as budget:
        student = make_student(given, placement, images=images, teacher=teacher, budget=budget)
    return report_students(given, placement, images=images, teacher=teacher, student=student)
