import shutil
from pathlib import Path
from typing import Any

import pytest

from components.catlib.artifacts import MANIFEST
from components.catlib.errors import UserError
from components.catlib.reporting.lineage import trace
from tests.components.report.small_run import SmallRun, rewrite, write_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return write_small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    """A run on other images; nothing of it belongs to `run`."""
    return write_small_run(tmp_path_factory.mktemp("other"), budgets=("0.3x",))


def test_artifacts_are_put_together_by_digest_in_whatever_order_they_come(run: SmallRun) -> None:
    lineage = trace(
        dataset=run.dataset,
        real_stats=run.real_stats,
        teacher=run.teacher,
        students=run.students[::-1],
        distilled=run.distilled,
        evaluations=run.evaluations[::-1],
        exports=run.exports,
    )
    found = [
        tuple(artifact and artifact.folder for artifact in (s.evaluation, s.trained, s.pruned, s.exported))
        for s in lineage.students
    ]
    expected = list(zip(run.evaluations, run.distilled, run.students, run.exports, strict=True))
    assert found == expected
    assert [artifact.manifest.kind for artifact in lineage.artifacts()] == [
        *("dataset", "real_stats", "teacher"),
        *("prune", "distill", "evaluate", "export") * 2,
    ]


def test_what_is_not_given_is_none(run: SmallRun) -> None:
    lineage = trace(evaluations=run.evaluations[:1])
    (student,) = lineage.students
    assert (student.trained, student.pruned, student.exported) == (None, None, None)
    assert (lineage.dataset, lineage.real_stats, lineage.teacher) == (None, None, None)


def test_an_artifact_given_twice_counts_once(run: SmallRun) -> None:
    lineage = trace(evaluations=[run.evaluations[0]] * 2, distilled=[run.distilled[0]] * 2)
    assert len(lineage.students) == 1


def test_an_evaluated_teacher_is_its_own_student(run: SmallRun, tmp_path: Path) -> None:
    shutil.copytree(run.evaluations[0], tmp_path / "evaluation")
    teacher_digest = trace(evaluations=run.evaluations, teacher=run.teacher).teacher
    assert teacher_digest is not None
    rewrite(
        tmp_path / "evaluation", MANIFEST, lambda manifest: manifest["inputs"].update(student=teacher_digest.digest)
    )
    (student,) = trace(evaluations=[tmp_path / "evaluation"], teacher=run.teacher).students
    assert student.trained is not None
    assert student.trained.folder == run.teacher


@pytest.mark.parametrize(
    ("left_out", "message"),
    [
        ({"evaluations": 0}, "belongs to none of the given evaluations"),
        ({"distilled": 0}, "is of a student that was not given; give --distilled"),
        ({"students": 0}, "was trained from a pruned architecture that was not given"),
    ],
)
def test_a_gap_in_the_chain_is_named(run: SmallRun, left_out: dict[str, int], message: str) -> None:
    inputs = run.inputs()
    for name, index in left_out.items():
        inputs[name] = [folder for i, folder in enumerate(inputs[name]) if i != index]
    with pytest.raises(UserError, match=message):
        trace(**inputs)


@pytest.mark.parametrize("name", ["dataset", "real_stats", "teacher"])
def test_ancestors_of_another_run_are_refused(run: SmallRun, other: SmallRun, tmp_path: Path, name: str) -> None:
    stranger = tmp_path / name
    shutil.copytree(getattr(other, name), stranger)
    rewrite(stranger, MANIFEST, lambda manifest: manifest["summary"].update(note="another"))
    with pytest.raises(UserError, match=f"was made from another {name} artifact than {stranger}"):
        trace(**{**run.inputs(), name: stranger})


@pytest.mark.parametrize("name", ["distilled", "students", "exports"])
def test_students_of_another_run_are_refused(run: SmallRun, other: SmallRun, name: str) -> None:
    inputs: dict[str, Any] = run.inputs()
    with pytest.raises(UserError, match=f"{getattr(other, name)[0]} belongs to none of the given evaluations"):
        trace(**{**inputs, name: [*inputs[name], *getattr(other, name)]})


def test_two_exports_of_one_student_are_refused(run: SmallRun, tmp_path: Path) -> None:
    again = tmp_path / "export"
    shutil.copytree(run.exports[0], again)
    rewrite(again, MANIFEST, lambda manifest: manifest["config"].update(opset=18))
    with pytest.raises(UserError, match="are exports of the same student"):
        trace(evaluations=run.evaluations, exports=[run.exports[0], again])


def test_a_folder_of_another_kind_is_refused(run: SmallRun) -> None:
    with pytest.raises(UserError, match=r"is a distill artifact, expected an? evaluate artifact"):
        trace(evaluations=run.distilled)


def test_no_evaluation_is_refused() -> None:
    with pytest.raises(UserError, match="at least one evaluation"):
        trace(evaluations=[])
