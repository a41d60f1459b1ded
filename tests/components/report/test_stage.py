import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.catlib.artifacts import MANIFEST, read_manifest, verify_checksums
from components.catlib.config import ReportConfig
from components.catlib.errors import UserError
from components.catlib.reporting.formatting import milliseconds
from components.catlib.serving import benchmark
from components.catlib.timing import Measured
from components.report import stage
from components.report.stage import run as write_report
from tests.components.report.small_run import SmallRun, rewrite, write_small_run

CONFIG = ReportConfig(name="tiles", description="From A to B.")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return write_small_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def report(run: SmallRun, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("out") / "report"
    write_report(CONFIG, output=output, **run.inputs())
    return output


def test_the_artifact_holds_the_page_and_every_students_deliverables(report: Path, run: SmallRun) -> None:
    manifest = read_manifest(report, "report")
    verify_checksums(report, manifest)
    delivered = {
        "metrics.json",
        "model.onnx",
        "export.json",
        "architecture.json",
        "generator_source_to_target.safetensors",
    }
    assert set(manifest.files) == {
        "report.html",
        "latency.json",
        "standings.json",
        *(f"standings/{read_manifest(distilled).digest()}.webp" for distilled in run.distilled),
        *(f"students/{budget}/{file}" for budget in ("0.5x", "0.2x") for file in delivered),
    }
    for i, budget in enumerate(("0.5x", "0.2x")):
        folder = report / "students" / budget
        assert (folder / "model.onnx").read_bytes() == (run.exports[i] / "model.onnx").read_bytes()
        assert (folder / "metrics.json").read_bytes() == (run.evaluations[i] / "metrics.json").read_bytes()
        weights = "generator_source_to_target.safetensors"
        assert (folder / weights).read_bytes() == (run.distilled[i] / weights).read_bytes()


def test_the_page_links_to_the_page_beside_it_that_runs_a_student(report: Path) -> None:
    text = (report / "report.html").read_text(encoding="utf-8")
    assert '<a href="try.html">' in text
    assert "try-page --model students/0.2x/model.onnx --output try.html" in text
    assert (report / "students/0.2x/model.onnx").is_file()


def test_the_manifest_names_all_inputs_and_the_headline(report: Path, run: SmallRun) -> None:
    manifest = read_manifest(report)
    given = [run.dataset, run.real_stats, run.teacher, *run.students, *run.distilled, *run.evaluations, *run.exports]
    assert sorted(manifest.inputs.values()) == sorted(read_manifest(folder).digest() for folder in given)
    assert manifest.inputs["evaluate 0.2x"] == read_manifest(run.evaluations[1]).digest()
    assert manifest.summary["students"] == {"0.5x": "Student 0.5×", "0.2x": "Student 0.2×"}
    metrics = manifest.summary["metrics"]
    assert metrics["students"] == 2
    assert metrics["macs_ratio"] > 4
    assert metrics["frechet_random_features"] == 31.0
    assert metrics["page_bytes"] == (report / "report.html").stat().st_size
    assert all(math.isfinite(value) for value in metrics.values())


def test_the_order_of_the_artifacts_does_not_matter(
    run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timed(paths: list[Path], **_: object) -> list[SimpleNamespace]:
        """Gives every file a time of its own; real ones differ from run to run."""
        seconds = {path: int(path.parent.name.rpartition("-")[2]) + 1.0 for path in paths}
        return [SimpleNamespace(measured=Measured((seconds[path],), threads=1)) for path in paths]

    monkeypatch.setattr(benchmark, "time_files", timed)
    monkeypatch.setattr(stage, "busy", lambda: 0.5)
    write_report(CONFIG, output=tmp_path / "first", **run.inputs())
    inputs = {
        name: folders[::-1] if name in ("students", "evaluations") else folders
        for name, folders in run.inputs().items()
    }
    write_report(CONFIG, output=tmp_path / "report", **inputs)
    assert read_manifest(tmp_path / "report") == read_manifest(tmp_path / "first")


def test_an_evaluation_is_enough(run: SmallRun, tmp_path: Path) -> None:
    write_report(CONFIG, output=tmp_path / "report", evaluations=run.evaluations[:1])
    assert set(read_manifest(tmp_path / "report").files) == {"report.html", "students/student-1/metrics.json"}


def test_what_does_not_belong_together_is_refused_and_leaves_nothing(run: SmallRun, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="belongs to none of the given evaluations"):
        write_report(CONFIG, output=tmp_path / "report", evaluations=run.evaluations[:1], distilled=run.distilled)
    assert list(tmp_path.iterdir()) == []


def test_students_of_one_budget_get_folders_of_their_own(tmp_path: Path) -> None:
    run = write_small_run(tmp_path, budgets=("0.5x",))
    again = tmp_path / "again"
    shutil.copytree(run.evaluations[0], again)
    rewrite(again, MANIFEST, lambda manifest: manifest["config"].update(num_samples=3))
    inputs = {**run.inputs(), "evaluations": [run.evaluations[0], again]}
    write_report(CONFIG, output=tmp_path / "report", **inputs)
    folders = sorted(path.name for path in (tmp_path / "report" / "students").iterdir())
    assert folders == ["student-1", "student-2"]
    assert "Student 0.5× (2)" in (tmp_path / "report" / "report.html").read_text()


def test_several_students_are_timed_together_and_the_page_names_the_load(
    run: SmallRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in run.exports:  # what each measured beside the others
        assert json.loads((folder / "export.json").read_text())["latency"]["onnxruntime"]["median"] == 0.004
    monkeypatch.setattr(stage, "busy", lambda: 7.25)
    write_report(CONFIG, output=tmp_path / "report", **run.inputs())
    found = json.loads((tmp_path / "report" / "latency.json").read_text())
    assert set(found["milliseconds"]) == {"Teacher", "Student 0.5×", "Student 0.2×"}
    assert all(0 < each < 4 for each in found["milliseconds"].values())
    assert (found["threads"], found["load"]) == (1, 7.25)
    page = (tmp_path / "report" / "report.html").read_text()
    assert "measured in turn by one task" in page
    assert "7.2 processes for" in page
    headline, _, rest = page.partition('id="comparison"')
    smallest, teacher = (milliseconds(found["milliseconds"][name]) for name in ("Student 0.2×", "Teacher"))
    assert "Time per image (ONNX Runtime, CPU)" in headline
    assert smallest in headline and teacher in headline and smallest in rest, "one measurement for headline and table"
    assert "4.0 ms" not in page.partition("largest difference")[0].partition("ONNX")[2]


def test_a_single_student_is_timed_by_its_export_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(benchmark, "time_files", None)
    single = write_small_run(tmp_path / "run", budgets=("0.5x",))
    write_report(CONFIG, output=tmp_path / "report", **single.inputs())
    assert not (tmp_path / "report" / "latency.json").exists()
    assert "measured in turn by one task" not in (tmp_path / "report" / "report.html").read_text()
