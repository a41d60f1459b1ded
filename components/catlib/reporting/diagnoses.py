"""What the rules find in the artifacts of a run: the likely cause of a failure, with the numbers that show it."""

from __future__ import annotations

from collections.abc import Sequence

from components.catlib.data.inspection import REPORT
from components.catlib.diagnosis.causes import (
    BATCH_NORM,
    COLLAPSE,
    CONSTANT_TEACHER,
    DISCRIMINATOR_WINS,
    LEARNING_RATE,
    STUDENT_CAPACITY,
    Cause,
    Diagnosis,
)
from components.catlib.diagnosis.datasets import diagnose_dataset
from components.catlib.diagnosis.students import diagnose_generators
from components.catlib.diagnosis.trainings import diagnose_training, trained_briefly
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.lineage import Artifact, Lineage

OF_TRAINING = frozenset({DISCRIMINATOR_WINS, COLLAPSE, LEARNING_RATE})
"""A training that fails explains a teacher that is constant, and a student that is bad."""


OF_TEACHER = frozenset({BATCH_NORM, CONSTANT_TEACHER})
"""What every student of a teacher shows is said once."""


def of_run(lineage: Lineage, comparison: Comparison) -> list[Diagnosis]:
    """Returns the diagnoses of all artifacts of a run that were given, without those that follow from others."""
    found = of_artifact(lineage.dataset) if lineage.dataset else []
    of_teacher = of_artifact(lineage.teacher) if lineage.teacher else []
    found += of_teacher
    explained = _causes(of_teacher) & OF_TEACHER
    if OF_TRAINING & _causes(of_teacher):
        explained |= {CONSTANT_TEACHER, STUDENT_CAPACITY}
    if lineage.teacher and trained_briefly(lineage.teacher.log()):
        explained.add(CONSTANT_TEACHER)
    for student in comparison.students:
        found += [each for each in _of_student(student) if each.cause not in explained]
        explained |= _causes(found) & OF_TEACHER
    return found


def of_artifact(artifact: Artifact) -> list[Diagnosis]:
    """Returns the diagnoses of a dataset, a teacher or a distilled student by itself."""
    manifest = artifact.manifest
    if manifest.kind == "dataset" and REPORT in manifest.files:
        return diagnose_dataset(artifact.read_json(REPORT), manifest.summary)
    if manifest.kind in ("teacher", "distill"):
        return diagnose_training(manifest.kind, manifest.config, artifact.log())
    return []


def _of_student(student: Contender) -> list[Diagnosis]:
    """Returns the diagnoses of a student, each cause once; what its training shows explains that it is bad."""
    trained = student.trained
    found = of_artifact(trained) if trained and trained.manifest.kind == "distill" else []
    of_evaluation = diagnose_generators(student.evaluation.read_json("metrics.json"), where=student.name)
    explained = _causes(found) | ({STUDENT_CAPACITY} if found else set())
    return found + [each for each in of_evaluation if each.cause not in explained]


def _causes(diagnoses: Sequence[Diagnosis]) -> set[Cause]:
    return {each.cause for each in diagnoses}
