"""Class by class: the table of IoU and the confusion matrix of the page."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from components.catlib.artifacts import MANIFEST
from components.catlib.config import ReportConfig
from components.catlib.reporting.classes import classes
from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.glance import html
from components.catlib.reporting.lineage import Artifact, trace
from components.catlib.reporting.page import render
from components.catlib.reporting.results import caveats
from tests.components.report.small_run import SmallRun, add_segmentation, rewrite, write_small_run

FACTS: dict[str, Any] = {
    "classes": ["road", "car", "train"],
    "generators": {
        "teacher": {"iou": [80.0, 60.0, None], "confusion": [[9, 1, 0], [1, 3, 0], [0, 0, 0]]},
        "student": {"iou": [70.0, 0.0, None], "confusion": [[6, 2, 0], [4, 0, 0], [0, 0, 0]]},
    },
}


@pytest.fixture
def run(tmp_path: Path) -> SmallRun:
    """Two students and a teacher with mIoU."""
    run = write_small_run(tmp_path)
    add_segmentation(run, FACTS, miou={"teacher": 70.0, "student": 35.0})
    return run


def test_every_class_is_told_of_every_generator(run: SmallRun) -> None:
    found = classes(compare_generators(trace(**run.inputs())))
    assert found is not None
    assert [name for name, _ in found.generators] == ["Teacher", "Student 0.5×", "Student 0.2×"]
    assert {row.name: row.cells for row in found.rows} == {
        "road": ["80.0", "70.0", "70.0"],
        "car": ["60.0", "0.0", "0.0"],
        "train": ["–", "–", "–"],
        "mean": ["70.00 %", "35.00 %", "35.00 %"],
    }


def test_the_smallest_students_confusion_is_shown_by_true_class(run: SmallRun) -> None:
    found = classes(compare_generators(trace(**run.inputs())))
    assert found is not None
    assert found.confused == "Student 0.2×"
    assert {row.name: row.shares for row in found.confusion} == {
        "road": [75.0, 25.0, 0.0],
        "car": [100.0, 0.0, 0.0],
        "train": [None, None, None],
    }


def test_the_page_beside_an_evaluation_shows_the_classes_too(run: SmallRun) -> None:
    shown = html(run.evaluations[1])
    assert '<table class="confusion">' in shown
    assert all(f'<th scope="row">{name}' in shown for name in FACTS["classes"])


def test_what_must_not_be_compared_is_left_out(run: SmallRun) -> None:
    protocol = {"segmentation": {"sha256": "1" * 64}}
    rewrite(run.evaluations[1], "metrics.json", lambda metrics: metrics["protocol"].update(protocol))
    found = classes(compare_generators(trace(**run.inputs())))
    assert found is not None
    assert "Student 0.2×" not in dict(found.generators)
    assert found.confused == "Student 0.5×"


def test_the_page_shows_miou_first_and_both_tables(run: SmallRun) -> None:
    lineage = trace(**run.inputs())
    comparison = compare_generators(lineage)
    assert comparison.metrics[0].key == "miou"
    html = render(ReportConfig(name="streets"), lineage, comparison)
    assert "35.00 %</p>" in html or "35.00 % <small>± 2.00" in html
    assert "What a segmenter sees" in html
    assert "Confusion of Student 0.2×" in html
    assert '<td style="--share: 30.0%">75</td>' in html


def test_without_a_segmenter_the_page_says_nothing(tmp_path: Path) -> None:
    run = write_small_run(tmp_path)
    lineage = trace(**run.inputs())
    assert classes(compare_generators(lineage)) is None
    html = render(ReportConfig(), lineage, compare_generators(lineage))
    assert "What a segmenter sees" not in html
    assert "mIoU" not in html


def test_street_scenes_without_a_segmenter_say_that_miou_was_not_measured(tmp_path: Path) -> None:
    run = write_small_run(tmp_path)
    rewrite(run.dataset, MANIFEST, lambda manifest: manifest["summary"].update(has_ground_truth=True))
    lineage = trace(**{name: given for name, given in run.inputs().items() if name == "evaluations"})
    dataset = Artifact.read(run.dataset, "dataset")
    (note,) = (
        note for note in caveats(replace(lineage, dataset=dataset), compare_generators(lineage)) if "mIoU" in note
    )
    assert "evaluate.segmenter" in note
