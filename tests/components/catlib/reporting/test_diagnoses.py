"""The report names what the rules find in all artifacts of a run, causes before what follows from them."""

import re
from pathlib import Path
from typing import Any

import pytest

from components.catlib.config import ReportConfig
from components.catlib.reporting import diagnoses
from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.lineage import Artifact, trace
from components.catlib.reporting.page import render
from tests.components.catlib.diagnosis.planted import load
from tests.components.report.small_run import SmallRun, rewrite, write_small_run

SIGNS = {"variation": 0.7, "saturation": 0.0, "batch_dependence": 1e-7}


@pytest.fixture
def run(tmp_path: Path) -> SmallRun:
    return write_small_run(tmp_path)


def section(run: SmallRun) -> str:
    """Returns the text of the section of a run's page."""
    inputs = run.inputs()
    lineage = trace(**inputs)
    page = render(ReportConfig(name="tiles"), lineage, compare_generators(lineage))
    found = re.search(r'<h2 id="diagnosis">(.*?)</section>', page, re.DOTALL)
    assert found is not None
    return " ".join(re.sub(r"<[^>]+>", " ", found[1]).split())


def recorded(monkeypatch: pytest.MonkeyPatch, **names: str) -> None:
    """Lets the logs of teachers and students hold the signs of recorded trainings."""

    def log(artifact: Artifact) -> list[dict[str, Any]]:
        return load(names[artifact.manifest.kind]).records if artifact.manifest.kind in names else []

    monkeypatch.setattr(Artifact, "log", log)


def evaluated(run: SmallRun, *, teacher: float = 0.7, student_distance: float = 1.0) -> None:
    """Gives every evaluation the signs of its generators, and its student a distance relative to the teacher's."""

    def change(metrics: dict[str, Any]) -> None:
        metrics["signs"] = {"teacher": SIGNS | {"variation": teacher}, "student": SIGNS}
        metrics["student"]["frechet_random_features"] = student_distance * metrics["teacher"]["frechet_random_features"]
        metrics["student"]["paper_macs"] = metrics["teacher"]["paper_macs"] // 20

    for evaluation in run.evaluations:
        rewrite(evaluation, "metrics.json", change)


def test_a_run_in_which_nothing_failed(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, teacher="healthy", distill="healthy-distillation")
    evaluated(run)
    assert section(run) == "Diagnosis No rule finds a cause of failure in what the stages of this run recorded."


def test_artifacts_without_signs_are_read(run: SmallRun) -> None:
    assert section(run).startswith("Diagnosis No rule")


def test_a_failed_teacher_is_named_and_explains_what_its_students_lack(
    run: SmallRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded(monkeypatch, teacher="learning-rate", distill="constant-teacher")
    evaluated(run, teacher=0.001, student_distance=3.0)
    text = section(run)
    assert text.startswith("Diagnosis teacher: the learning rate is too high. The first step moved the weights")
    assert text.endswith("What to do: lower teacher.learning_rate by a factor of ten.")


def test_a_constant_teacher_is_named_once(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch)
    evaluated(run, teacher=0.001)
    text = section(run)
    assert text.count("a constant teacher.") == 1
    assert "Its images vary by 0.10% of what real ones do." in text


def test_a_teacher_of_a_few_steps_is_not_called_constant(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, teacher="healthy-brief", distill="constant-teacher")
    evaluated(run, teacher=0.001)
    assert section(run).startswith("Diagnosis No rule")


def test_every_student_below_capacity_is_named(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, teacher="healthy", distill="healthy-distillation")
    evaluated(run, student_distance=2.0)
    text = section(run)
    assert "Student 0.5×: the student is below capacity." in text
    assert "Student 0.2×: the student is below capacity." in text
    assert "2.0 times as far from real images" in text


def test_a_batch_that_is_too_small_explains_a_bad_student(run: SmallRun, monkeypatch: pytest.MonkeyPatch) -> None:
    recorded(monkeypatch, teacher="healthy", distill="alignment-batch")
    monkeypatch.setattr(
        diagnoses, "diagnose_training", lambda stage, _, records, true=diagnoses.diagnose_training: true(
            stage, load("alignment-batch" if stage == "distill" else "healthy").config, records
        ),
    )  # fmt: skip
    evaluated(run, student_distance=2.0)
    assert "too small a batch for kernel alignment" in section(run)
    assert "capacity" not in section(run)
