"""Caveats of a run."""

from dataclasses import replace
from pathlib import Path

import pytest

from components.catlib.code_digest import code_digest
from components.catlib.metrics.catalogue import BY_KEY
from components.catlib.reporting import results
from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.lineage import Lineage, trace
from components.catlib.reporting.results import caveats, headline, table
from tests.components.report.small_run import write_small_run


@pytest.fixture(scope="module")
def lineage(tmp_path_factory: pytest.TempPathFactory) -> Lineage:
    run = write_small_run(tmp_path_factory.mktemp("run"))
    return trace(evaluations=run.evaluations, teacher=run.teacher, distilled=run.distilled, dataset=run.dataset)


def about_code(lineage: Lineage) -> list[str]:
    return [note for note in caveats(lineage, compare_generators(lineage)) if "versions of the code" in note]


def test_artifacts_of_this_code_need_no_caveat_though_every_stage_has_a_digest_of_its_own(lineage: Lineage) -> None:
    assert len({artifact.manifest.code_digest for artifact in lineage.artifacts()}) > 1
    assert about_code(lineage) == []


def test_artifacts_of_other_code_are_named_by_kind(lineage: Lineage, monkeypatch: pytest.MonkeyPatch) -> None:
    def now(stage: str) -> str:
        return "0123456789ab" if stage in ("teacher", "distill") else code_digest(stage)

    monkeypatch.setattr(results, "code_digest", now)
    (note,) = about_code(lineage)
    assert note == "Other versions of the code wrote: teacher, distill; the table of artifacts lists them."


def test_a_teacher_that_was_fetched_is_of_this_code(
    lineage: Lineage, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    written = code_digest("teacher")
    digests = {"teacher": "0123456789ab", "fetch_teacher": written}
    monkeypatch.setattr(results, "code_digest", lambda stage: digests.get(stage) or code_digest(stage))
    assert about_code(lineage) == []


def test_columns_and_facts_state_which_values_are_better(lineage: Lineage) -> None:
    comparison = compare_generators(lineage)
    energy = BY_KEY["gradient_energy_ratio"]
    students = tuple(replace(student, figures=student.figures | {energy.key: 0.85}) for student in comparison.students)
    comparison = replace(comparison, students=students, metrics=(energy, BY_KEY["ssim"], BY_KEY["l1"]))
    directions = {column.label: (column.arrow, column.goal) for column in table(comparison).columns}
    assert directions["Gradient energy"] == ("→ 1", "nearest to 1 is better")
    assert directions["SSIM"] == ("↑", "higher is better")
    assert directions["L1"] == directions["Time per image"] == ("↓", "lower is better")
    assert directions["MACs"] == ("", "")
    (fact,) = [fact for fact in headline(comparison).facts if fact.label == "Gradient energy"]
    assert (fact.student, fact.remark) == ("0.85", "nearest to 1 is better")
