from pathlib import Path

import pytest

from components.catlib.artifacts import MANIFEST
from components.catlib.metrics.catalogue import BY_KEY
from components.catlib.reporting.comparison import Score, compare_generators
from components.catlib.reporting.lineage import trace
from tests.components.report.small_run import SmallRun, rewrite, write_small_run


@pytest.fixture
def run(tmp_path: Path) -> SmallRun:
    return write_small_run(tmp_path, budgets=("0.2x", "0.5x", "0.3x"))


def test_students_are_ordered_by_macs_and_named_by_budget(run: SmallRun) -> None:
    comparison = compare_generators(trace(**run.inputs()))
    assert [each.name for each in comparison.contenders] == ["Teacher", "Student 0.5×", "Student 0.3×", "Student 0.2×"]
    macs = [each.macs for each in comparison.contenders]
    assert macs == sorted(macs, reverse=True)
    assert comparison.smallest.name == "Student 0.2×"
    assert comparison.most_macs == macs[0]
    assert [each.pruned and each.pruned.folder for each in comparison.students] == [run.students[i] for i in (1, 2, 0)]


def test_students_without_budgets_are_numbered(run: SmallRun) -> None:
    comparison = compare_generators(trace(evaluations=run.evaluations))
    assert [each.name for each in comparison.students] == ["Student (1)", "Student (2)", "Student (3)"]
    assert compare_generators(trace(evaluations=run.evaluations[:1])).smallest.name == "Student"


def test_scores_carry_their_confidence(run: SmallRun) -> None:
    student = compare_generators(trace(evaluations=run.evaluations[:1])).smallest
    score = student.score(BY_KEY["l1"])
    assert score is not None
    assert (score.value, score.interval) == (0.25, (0.24, 0.26))
    assert score.spread == pytest.approx(0.01)
    assert student.score(BY_KEY["frechet_random_features"]) == Score(30.0)
    assert student.score(BY_KEY["fid"]) is None


def test_kid_carries_its_spread(run: SmallRun) -> None:
    rewrite(run.evaluations[0], "metrics.json", lambda metrics: metrics["student"].update(kid=0.05, kid_std=0.002))
    student = compare_generators(trace(evaluations=run.evaluations[:1])).smallest
    assert student.score(BY_KEY["kid"]) == Score(0.05, 0.002)


@pytest.mark.parametrize(
    ("part", "value", "withheld"),
    [
        ("real_images", "real training images", {"frechet_random_features"}),
        ("similarity", "cropped", {"l1", "psnr", "ssim"}),
        ("num_images", 4, {"l1", "psnr", "ssim", "frechet_random_features"}),
        ("latency", {"threads": 64}, set()),
        ("segmentation", {"sha256": "1" * 64}, {"miou"}),
        ("lpips", {"backbone": "vgg"}, {"lpips"}),
        ("kernel_distance", {"subsets": 10}, {"kid"}),
        ("rounding", "cut", {"miou", "kid", "frechet_random_features"}),
    ],
)
def test_numbers_of_another_protocol_are_withheld(run: SmallRun, part: str, value: object, withheld: set[str]) -> None:
    measured_further = part in ("segmentation", "lpips", "kernel_distance", "rounding")
    for evaluation in run.evaluations if measured_further else []:
        for name in ("student", "teacher"):
            further = {"miou": 40.0, "lpips": 0.3, "kid": 0.1}
            rewrite(evaluation, "metrics.json", lambda metrics, n=name, f=further: metrics[n].update(f))
    rewrite(run.evaluations[0], "metrics.json", lambda metrics: metrics["protocol"].update({part: value}))
    comparison = compare_generators(trace(**run.inputs()))
    assert set(comparison.withheld) == {("Student 0.2×", key) for key in withheld}
    for key in withheld:
        assert comparison.withheld["Student 0.2×", key] == [part]
        assert comparison.score(comparison.smallest, BY_KEY[key]) is None
        assert comparison.score(comparison.students[0], BY_KEY[key]) is not None
    notes = comparison.notes()
    assert len(notes) == len(withheld)
    assert all("Student 0.2× is withheld" in note and part in note for note in notes)


def test_numbers_of_another_dataset_are_withheld(run: SmallRun) -> None:
    rewrite(run.evaluations[1], MANIFEST, lambda manifest: manifest["inputs"].update(dataset="f" * 64))
    comparison = compare_generators(trace(evaluations=run.evaluations))
    assert {name for name, _ in comparison.withheld} == {"Student (1)"}
    assert comparison.withheld["Student (1)", "l1"] == ["dataset"]


def test_the_teacher_is_taken_from_a_usual_evaluation(run: SmallRun) -> None:
    """Even when the unusual one is the first."""
    rewrite(run.evaluations[1], "metrics.json", lambda metrics: metrics["protocol"].update(num_images=4))
    rewrite(run.evaluations[1], "metrics.json", lambda metrics: metrics["teacher"].update(l1=0.9))
    comparison = compare_generators(trace(**run.inputs()))
    assert comparison.teacher is not None
    assert comparison.teacher.figures["l1"] == 0.2
    assert comparison.score(comparison.teacher, BY_KEY["l1"]) is not None


def test_without_a_teacher_there_is_none(run: SmallRun) -> None:
    for evaluation in run.evaluations:
        rewrite(evaluation, "metrics.json", lambda metrics: metrics.update(teacher=None, ratio={}))
    comparison = compare_generators(trace(**run.inputs()))
    assert comparison.teacher is None
    assert comparison.contenders == comparison.students


def test_the_headline_is_the_first_metric_that_was_measured(run: SmallRun) -> None:
    assert compare_generators(trace(**run.inputs())).metrics[0].key == "frechet_random_features"
    rewrite(run.evaluations[0], "metrics.json", lambda metrics: metrics["student"].update(fid=60.2))
    assert compare_generators(trace(**run.inputs())).metrics[0].key == "fid"
