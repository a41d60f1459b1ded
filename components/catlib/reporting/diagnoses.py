"""What the rules say about a run's artifacts: the likely cause of a failure, with the numbers that show it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from components.catlib.data.inspection import REPORT
from components.catlib.diagnosis.causes import Diagnosis
from components.catlib.diagnosis.datasets import diagnose_dataset
from components.catlib.diagnosis.students import diagnose_generators
from components.catlib.diagnosis.trainings import diagnose_training
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.lineage import Artifact, Lineage


def of_run(lineage: Lineage, comparison: Comparison) -> list[Diagnosis]:
    """Returns the diagnoses of all artifacts of a run that were given, causes before their consequences."""
    found = of_artifact(lineage.dataset) if lineage.dataset else []
    found += of_artifact(lineage.teacher) if lineage.teacher else []
    for student in comparison.students:
        of_student = _of_student(student)
        if len(comparison.students) > 1:
            of_student = [Diagnosis(each.cause, student.name, each.evidence) for each in of_student]
        found += of_student
    return list(dict.fromkeys(found))


def of_artifact(artifact: Artifact) -> list[Diagnosis]:
    """Returns the diagnoses of a dataset, a teacher or a distilled student by itself."""
    manifest = artifact.manifest
    match manifest.kind:
        case "dataset" if REPORT in manifest.files:
            return diagnose_dataset(artifact.read_json(REPORT), manifest.summary)
        case "teacher" | "distill":
            return diagnose_training(manifest.kind, manifest.config, log_of(artifact))
    return []


def log_of(artifact: Artifact) -> list[dict[str, Any]]:
    """Returns the records of a training's log; empty for a network that was not trained."""
    if "log.jsonl" not in artifact.manifest.files:
        return []
    return [json.loads(line) for line in (artifact.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()]


def _of_student(student: Contender) -> Iterator[Diagnosis]:
    if student.trained is not None and student.trained.manifest.kind == "distill":
        yield from of_artifact(student.trained)
    yield from diagnose_generators(student.evaluation.read_json("metrics.json"))
