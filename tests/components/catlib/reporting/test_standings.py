"""What a report keeps of its students for later reports, and what it takes from earlier ones."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.catlib.artifacts import MANIFEST, file_sha256, read_manifest
from components.catlib.config import Pix2PixDistillConfig, ReportConfig
from components.catlib.errors import UserError
from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.lineage import trace
from components.catlib.reporting.standings import PICTURES, STANDINGS_FILE, read, standings
from components.report.stage import run as write_report
from tests.components.report.small_run import SmallRun, picture, rewrite, write_small_run

KINDS = ("kernel_alignment", "none")


def sweep(folder: Path, *seeds: int) -> SmallRun:
    grid = [{"distiller": kind, "seed": seed} for kind in KINDS for seed in seeds]
    return write_small_run(
        folder,
        budgets=("0.5x",) * len(grid),
        distillations=tuple(Pix2PixDistillConfig.model_validate(each) for each in grid),
    )


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return sweep(tmp_path_factory.mktemp("first"), 0, 1)


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return sweep(tmp_path_factory.mktemp("second"), 2)


@pytest.fixture(scope="module")
def earlier(first: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "report"
    write_report(ReportConfig(name="first"), output=output, **first.inputs())
    return output


@pytest.fixture
def damaged(earlier: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(earlier, tmp_path / "damaged"))


def change_student(folder: Path, **changes: Any) -> None:
    rewrite(folder, STANDINGS_FILE, lambda content: content["students"][0].update(changes))


def test_a_report_keeps_its_students(earlier: Path, first: SmallRun) -> None:
    kept = read(earlier)
    by_digest = {student.student: student for student in kept.students}
    assert set(by_digest) == {read_manifest(folder).digest() for folder in first.distilled} == set(kept.pictures)
    student = by_digest[read_manifest(first.distilled[1]).digest()]
    assert (student.seed, student.budget, student.steps, student.seconds) == (1, "0.5x", 40, 40.0)
    assert student.settings["distiller"] == Pix2PixDistillConfig().model_dump(mode="json")["distiller"]
    assert student.scores["l1"] == 0.26
    assert student.image_scores["l1"] == pytest.approx([0.24, 0.25, 0.26, 0.27, 0.28])
    assert student.curves["l1"].steps == [20, 40]
    assert student.curves["l1"].values == pytest.approx([0.3, 0.1])
    assert kept.table.dataset == read_manifest(first.dataset).digest()
    assert kept.table.teacher == read_manifest(first.teacher).digest()


def test_a_later_report_shows_and_keeps_all_students(earlier: Path, second: SmallRun, tmp_path: Path) -> None:
    output = tmp_path / "report"
    write_report(ReportConfig(name="second"), output=output, **second.inputs(), earlier=[earlier])
    kept = read(output)
    assert sorted(student.seed for student in kept.students) == [0, 0, 1, 1, 2, 2]
    assert len(kept.pictures) == 6
    assert read_manifest(output).inputs["earlier 1"] == read_manifest(earlier).digest()
    html = (output / "report.html").read_text(encoding="utf-8")
    assert "4 of these 6 students come from earlier reports" in html
    # L1 of kernel alignment: 0.25 and 0.26 before, 0.25 now
    assert "0.253 ± 0.006" in html


def test_a_student_of_several_reports_counts_once(earlier: Path, first: SmallRun, second: SmallRun) -> None:
    again = standings(compare_generators(trace(**first.inputs())), [earlier, earlier])
    assert again is not None
    assert len(again.students) == 4
    more = standings(compare_generators(trace(**second.inputs())), [earlier, earlier])
    assert more is not None
    assert [student.seed for student in more.students[:2]] == [2, 2]
    assert len(more.students) == 6


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda content: content.update(dataset="0" * 64), "another dataset than"),
        (lambda content: content.update(teacher=None), "another teacher than"),
        (lambda content: content["protocol"].update(l1="0" * 64), "another protocol of L1 than"),
        (lambda content: content["protocol"].pop("ssim"), "another protocol of SSIM than"),
    ],
)
def test_other_images_teachers_and_protocols_are_refused(
    damaged: Path, second: SmallRun, change: Callable[[Any], object], named: str
) -> None:
    rewrite(damaged, STANDINGS_FILE, change)
    with pytest.raises(UserError, match=named) as refused:
        standings(compare_generators(trace(**second.inputs())), [damaged])
    assert str(damaged) in str(refused.value)


def test_another_number_of_images_is_another_protocol(damaged: Path, second: SmallRun) -> None:
    change_student(damaged, image_scores={"l1": [0.25, 0.25]})
    with pytest.raises(UserError, match="another protocol of L1 than"):
        standings(compare_generators(trace(**second.inputs())), [damaged])


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"student": "../../etc/passwd"}, "students.0.student"),
        ({"macs": 0}, "students.0.macs"),
        ({"scores": {"beauty": 1.0}}, "'beauty' is no metric"),
        ({"image_scores": {"l1": [0.9, 0.9]}}, "its images have a mean l1 of 0.9"),
        ({"curves": {"l1": {"steps": [1, 2], "values": [0.1]}}}, "2 steps have 1 values"),
        ({"budget": "cheap"}, "students.0.budget"),
        ({"seconds": -1.0}, "students.0.seconds"),
        ({"seconds": 1e300}, "students.0.seconds"),
        ({"settings": {"distiller": {"kind": []}}}, "the kind of a part of the settings is no word"),
        ({"surprise": 1}, "students.0.surprise"),
    ],
)
def test_damaged_standings_are_refused(damaged: Path, changes: dict[str, Any], named: str) -> None:
    change_student(damaged, **changes)
    with pytest.raises(UserError, match=named) as refused:
        read(damaged)
    assert "write that report again, or leave it out" in str(refused.value)


def test_numbers_must_be_finite(damaged: Path) -> None:
    text = (damaged / STANDINGS_FILE).read_text().replace('"seconds":40.0', '"seconds":NaN', 1)
    overwrite(damaged, STANDINGS_FILE, text.encode())
    with pytest.raises(UserError, match="damaged or from another version"):
        read(damaged)


@pytest.mark.parametrize("content", [b"", b"GIF89a", picture((400, 300), shade=3)], ids=["empty", "gif", "large"])
def test_pictures_must_be_small_webp_files(damaged: Path, content: bytes) -> None:
    overwrite(damaged, f"{PICTURES}/{read(damaged).students[0].student}.webp", content)
    with pytest.raises(UserError, match="is no WebP picture of at most 256×256 pixels"):
        read(damaged)


def overwrite(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = {"bytes": len(content), "sha256": file_sha256(folder / name)}
    (folder / MANIFEST).write_text(json.dumps(manifest))


def test_reports_without_standings_are_refused(damaged: Path) -> None:
    (damaged / STANDINGS_FILE).unlink()
    rewrite(damaged, MANIFEST, lambda content: content["files"].pop(STANDINGS_FILE))
    with pytest.raises(UserError, match=r"has no standings\.json"):
        read(damaged)


def test_other_artifacts_are_refused(first: SmallRun) -> None:
    with pytest.raises(UserError, match="report"):
        read(first.dataset)


def test_students_of_unknown_training_are_not_compared(first: SmallRun, earlier: Path, tmp_path: Path) -> None:
    alone = {"evaluations": first.evaluations}
    comparison = compare_generators(trace(**alone))
    assert standings(comparison) is None
    with pytest.raises(UserError, match="give --distilled"):
        standings(comparison, [earlier])
    write_report(ReportConfig(name="alone"), output=tmp_path / "report", **alone)
    assert STANDINGS_FILE not in read_manifest(tmp_path / "report").files
