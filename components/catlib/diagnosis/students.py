"""Rules over what the evaluation records of a student and its teacher (`metrics.json`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from components.catlib.diagnosis.causes import BATCH_NORM, CONSTANT_TEACHER, STUDENT_CAPACITY, Diagnosis
from components.catlib.diagnosis.trainings import CONSTANT, MIXED

SMALL = 0.2
"""A student with more than this share of its teacher's multiply-accumulates has enough of them."""

WORSE = 1.5
"""A student is much worse than its teacher if it is this many times as far from real images."""

DISTANCES = ("fid", "frechet_random_features")
"""Distances between generated and real images, by their keys in the catalogue of metrics."""


def diagnose_generators(evaluation: Mapping[str, Any], *, where: str = "evaluate") -> list[Diagnosis]:
    """Names what is wrong with a student or its teacher, whatever they were trained with.

    Args:
        evaluation: The content of `metrics.json`.
        where: Name of the student.
    """
    found = [
        constant_teacher(evaluation, where),
        depends_on_batch(evaluation, where),
        student_capacity(evaluation, where),
    ]
    return [each for each in found if each is not None]


def constant_teacher(evaluation: Mapping[str, Any], where: str) -> Diagnosis | None:
    """The teacher makes the same image of everything."""
    variation = evaluation.get("signs", {}).get("teacher", {}).get("variation")
    if variation is None or variation >= CONSTANT:
        return None
    return CONSTANT_TEACHER.seen(where, f"its images vary by {variation:.2%} of what real ones do")


def depends_on_batch(evaluation: Mapping[str, Any], where: str) -> Diagnosis | None:
    """The image that a generator makes depends on what else is in the batch."""
    for name, signs in evaluation.get("signs", {}).items():
        if signs["batch_dependence"] > MIXED:
            changes = f"{signs['batch_dependence']:.0%} of what real ones vary"
            return BATCH_NORM.seen(where, f"an image of the {name} changes with what else is in the batch by {changes}")
    return None


def student_capacity(evaluation: Mapping[str, Any], where: str) -> Diagnosis | None:
    """A small student is much further from real images than its teacher."""
    student, teacher = evaluation["student"], evaluation["teacher"]
    if teacher is None:
        return None
    share = student["paper_macs"] / teacher["paper_macs"]
    for key in DISTANCES:
        if share < SMALL and key in student and student[key] > WORSE * teacher[key] > 0:
            evidence = (
                f"with {share:.1%} of the teacher's multiply-accumulates it is {student[key] / teacher[key]:.1f} times "
                "as far from real images"
            )
            return STUDENT_CAPACITY.seen(where, evidence)
    return None
