"""The chains of tasks that several pipelines share: from images to statistics, and from a teacher to an ONNX file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kfp import dsl

from components.dataset.component import prepare_dataset
from components.distill.component import distill_student
from components.evaluate.component import evaluate_student
from components.export.component import export_student
from components.prune.component import prune_teacher
from components.real_stats.component import measure_real_images
from components.report.component import write_report
from pipelines.resources import Placement

Given = Any
"""A parameter of the pipeline, an output of a task, or a plain value: what Kubeflow takes as an argument."""


@dataclass(frozen=True)
class Images:
    """Tasks that every pipeline begins with."""

    dataset: Given
    real_stats: Given


def prepare_images(
    placement: Placement, *, dataset: Given, source_version: Given, real_stats: Given, code_digest: Given
) -> Images:
    """Packs the images and computes their statistics; returns both artifacts."""
    packed = placement.place(
        "dataset", prepare_dataset(config=dataset, code_digest=code_digest, source_version=source_version)
    )
    measured = placement.place(
        "real_stats",
        measure_real_images(config=real_stats, code_digest=code_digest, dataset=packed.outputs["dataset"]),
    )
    return Images(packed.outputs["dataset"], measured.outputs["real_stats"])


@dataclass(frozen=True)
class Student:
    """Tasks that make one student."""

    pruned: dsl.PipelineTask
    distilled: dsl.PipelineTask
    evaluated: dsl.PipelineTask
    exported: dsl.PipelineTask


def make_student(
    placement: Placement,
    *,
    teacher: Given,
    images: Images,
    budget: Given,
    prune: Given,
    distill: Given,
    evaluate: Given,
    export: Given,
    code_digest: Given,
) -> Student:
    """Prunes a teacher to a budget, distils it into the student, evaluates the student and exports it."""
    pruned = prune_teacher(config=prune, budget=budget, code_digest=code_digest, teacher=teacher)
    distilled = distill_student(
        config=distill,
        code_digest=code_digest,
        teacher=teacher,
        student=pruned.outputs["student"],
        dataset=images.dataset,
        real_stats=images.real_stats,
    )
    evaluated = evaluate_student(
        config=evaluate,
        code_digest=code_digest,
        student=distilled.outputs["distilled"],
        teacher=teacher,
        dataset=images.dataset,
        real_stats=images.real_stats,
    )
    exported = export_student(
        config=export, code_digest=code_digest, student=distilled.outputs["distilled"], dataset=images.dataset
    )
    return Student(
        placement.place("prune", pruned),
        placement.place("distill", distilled),
        placement.place("evaluate", evaluated),
        placement.place("export", exported),
    )


def report_students(
    placement: Placement,
    *,
    report: Given,
    images: Images,
    student: Student,
    code_digest: Given,
    teacher: Given = None,
) -> Given:
    """Reports on all students of the loop that made `student`; returns the report's artifact."""
    written = write_report(
        config=report,
        code_digest=code_digest,
        dataset=images.dataset,
        real_stats=images.real_stats,
        students=dsl.Collected(student.pruned.outputs["student"]),
        distilled=dsl.Collected(student.distilled.outputs["distilled"]),
        evaluations=dsl.Collected(student.evaluated.outputs["evaluation"]),
        exports=dsl.Collected(student.exported.outputs["exported"]),
        **({} if teacher is None else {"teacher": teacher}),
    )
    return placement.place("report", written).outputs["report"]
