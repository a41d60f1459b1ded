"""The runs of this machine: their ends, their students' figures side by side, their reports."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from components.catlib.artifacts import writing
from components.catlib.config import ReportConfig
from pipelines.__main__ import main
from pipelines.local_runs import local_runs
from pipelines.workspaces import in_use

FIGURES = {"psnr": 11.99, "ssim": 0.004, "paper_macs": 2071808, "latency_ms": {"median": 12.9}, "images": 24}


def leave_run(
    workspace: Path, name: str, *, log: str = "", students: dict[str, dict] | None = None, parent: int = 0
) -> None:
    """Leaves what a run leaves; one with students wrote a report."""
    logs = workspace / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (logs / f"{name}.request.json").write_text(json.dumps({"name": name, "pipeline": "compress", "parent": parent}))
    (logs / f"{name}.log").write_text(log)
    if students is None:
        return
    folder = workspace / "artifacts" / name / "write-report" / "report"
    with writing(folder, kind="report", config=ReportConfig()) as writer:
        (writer.folder / "report.html").write_text("<html>")
        for each, figures in students.items():
            (writer.folder / "students" / each).mkdir(parents=True)
            writer.write_json(f"students/{each}/metrics.json", {"student": figures})
        writer.summary["students"] = {each: f"Student {each}" for each in students}
    (logs / f"{name}.answer.json").write_text(json.dumps({"report": str(folder)}))


def ended() -> int:
    """The number of a process that is gone."""
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


@pytest.fixture
def workspace(tmp_path: Path) -> Path:
    (tmp_path / "artifacts").mkdir()
    leave_run(tmp_path, "smoke-20261126-100000-1", students={"0.5x": FIGURES | {"psnr": 12.5}, "0.3x": FIGURES})
    leave_run(tmp_path, "my-own-20261126-110000-2", students={"0.2x": {"psnr": 10.0}})
    leave_run(tmp_path, "smoke-20261126-120000-3", log="[dataset] ERROR: There are no images in /data; give others.\n")
    crash = "Executing task 'train-teacher'\n    Task 'train-teacher' finished with status FAILURE\n"
    leave_run(tmp_path, "smoke-20261126-130000-4", log=crash)
    leave_run(tmp_path, "smoke-20261126-140000-5", log=f"    The task was killed by SIGKILL.\n{crash}")
    leave_run(tmp_path, "smoke-20261126-150000-6", log="[teacher] INTERRUPTED: Stopped after step 7.\n", parent=ended())
    leave_run(tmp_path, "smoke-20261126-160000-7", log="[teacher] step 1\n", parent=os.getpid())
    return tmp_path


def test_figures_stand_side_by_side_with_links(workspace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--workspace", str(workspace)]) == 0
    lines = capsys.readouterr().out.splitlines()
    header, *rows = lines[:9]
    assert header.split() == ["run", "state", "student", "MACs", "PSNR", "↑", "SSIM", "↑", "latency"]
    by_student = {row[header.index("student") :].partition("  ")[0].strip(): row for row in rows if "Student" in row}
    assert set(by_student) == {"Student 0.5x", "Student 0.3x", "Student 0.2x"}
    column = header.index("PSNR")
    assert by_student["Student 0.5x"][column:].startswith("12.50 dB")
    assert by_student["Student 0.3x"][column:].startswith("11.99 dB")
    assert by_student["Student 0.2x"][column:].startswith("10.00 dB  –")
    assert "2.07 M" in by_student["Student 0.3x"]
    report = workspace / "artifacts/smoke-20261126-100000-1/write-report/report/report.html"
    assert f"smoke-20261126-100000-1: {report.as_uri()}" in lines
    assert "smoke-20261126-120000-3: There are no images in /data; give others." in lines


def test_every_end_is_told_apart(workspace: Path) -> None:
    with in_use(workspace):
        found = {run.name[-1]: run for run in local_runs(workspace)}
    states = {number: run.state for number, run in found.items()}
    assert "".join(states[number][0] for number in "1234567") == "SSFFFIR"
    assert set(states.values()) == {"SUCCEEDED", "FAILED", "INTERRUPTED", "RUNNING"}
    assert found["4"].reason.startswith("train-teacher failed; log: ")
    assert found["5"].reason.startswith("train-teacher was killed; log: ")
    assert found["6"].reason == "Stopped after step 7."
    assert found["2"].began == "2026-11-26 11:00:00"
    assert list(found) == list("7654321")
    assert local_runs(workspace)[0].state == "INTERRUPTED", "nothing runs in the workspace"


def test_one_run_by_its_name_and_the_newest_by_their_number(
    workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", "my-own-20261126-110000-2", "--workspace", str(workspace), "--json"]) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["name"], run["state"], run["pipeline"]) == ("my-own-20261126-110000-2", "SUCCEEDED", "compress")
    assert run["students"] == [{"name": "Student 0.2x", "figures": {"psnr": 10.0}}]
    assert [run.name[-1] for run in local_runs(workspace, count=2)] == ["7", "6"]


def test_a_report_that_was_removed_and_damaged_files_hide_nothing_else(workspace: Path) -> None:
    report = workspace / "artifacts/smoke-20261126-100000-1/write-report/report"
    for path in (report / "manifest.json", report / "report.html"):
        path.unlink()
    (workspace / "logs/my-own-20261126-110000-2.request.json").write_text("no JSON")
    found = {run.name[-1]: run for run in local_runs(workspace)}
    assert (found["1"].state, found["1"].report, found["1"].students) == ("SUCCEEDED", None, ())
    assert len(found["2"].students) == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--workspace", "{}/nowhere"], "There is no workspace"),
        (["--workspace", "{}/logs"], "is not a workspace"),
        (["nosuch", "--workspace", "{}"], "There is no run 'nosuch'"),
        (["--workspace", "{}", "--wait"], "leave out --host and --wait"),
        (["--workspace", "{}", "--host", "http://h"], "leave out --host and --wait"),
    ],
)
def test_mistakes_are_sentences(
    arguments: list[str], words: str, workspace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["status", *(argument.format(workspace) for argument in arguments)]) == 2
    assert words in capsys.readouterr().err


def test_a_new_workspace_has_no_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "logs").mkdir()
    assert main(["status", "--workspace", str(tmp_path)]) == 0
    assert capsys.readouterr().out == "no runs yet\n"
