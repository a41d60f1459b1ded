"""What targets of the Makefile do to a checkout."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

MADE_BY_TOOLS = [
    ".venv/pyvenv.cfg",
    ".venv/bin/python",
    "build/docker/pip.conf",
    "build/lock/bin/python",
    ".pytest_cache/x",
    ".ruff_cache/x",
    ".hypothesis/x",
    ".import_linter_cache/x",
    "cat_pipeline.egg-info/PKG-INFO",
]
MADE_BY_PEOPLE = [
    "runs/smoke/report.html",
    "runs/checkpoints/teacher-0123456789abcdef/step-000000010.pt",
    "runs/artifacts/compress/train-teacher/teacher/manifest.json",
    "build/smoke-report/report.html",
    "build/mine.yaml",
    "datasets/horse2zebra.zip",
    "weights/inception.pth",
    "own.yaml",
    "docker/compose.env",
    "k8s/base/store.env",
    "other.egg-info/PKG-INFO",
]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in [*MADE_BY_TOOLS, *MADE_BY_PEOPLE]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x")
    return tmp_path


def clean(checkout: Path, *further: str) -> set[str]:
    """Runs `make clean`; returns the files that are there afterwards."""
    subprocess.run(["make", "clean", *further], cwd=checkout, check=True, capture_output=True)
    return {path.relative_to(checkout).as_posix() for path in checkout.rglob("*") if path.is_file()} - {"Makefile"}


def test_clean_removes_what_tools_made_and_nothing_that_people_made(checkout: Path) -> None:
    assert clean(checkout) == set(MADE_BY_PEOPLE)
    assert clean(checkout) == set(MADE_BY_PEOPLE), "again"


def test_clean_takes_no_other_folder_for_a_virtual_environment(checkout: Path) -> None:
    assert set(MADE_BY_PEOPLE) < clean(checkout, "VENV=runs")
    assert clean(checkout, "VENV=datasets") >= set(MADE_BY_PEOPLE)


def test_a_folder_of_which_nothing_is_left_goes(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "build/lock").mkdir(parents=True)
    clean(tmp_path)
    assert not (tmp_path / "build").exists()


def test_the_help_says_what_clean_removes_and_leaves() -> None:
    said = subprocess.run(["make", "help"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (line,) = [line for line in said.splitlines() if line.strip().startswith("make clean")]
    assert "virtual environment" in line
    assert "runs/" in line
    assert "stay" in line


def test_try_without_a_student_says_what_to_run(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    command = ["make", "--silent", "--old-file=.venv/.ready", "try", "RECIPE=mine"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    message = "runs/mine has no student; run `make run RECIPE=mine` first, or name a file with MODEL=."
    assert message in done.stderr.splitlines()


def test_try_takes_the_newest_student(tmp_path: Path) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    for age, budget in enumerate(("0.1x", "0.2x")):
        model = tmp_path / "runs" / "demo" / "students" / budget / "model.onnx"
        model.parent.mkdir(parents=True)
        model.touch()
        os.utime(model, (1e9 - age, 1e9 - age))
    command = ["make", "--dry-run", "--old-file=.venv/.ready", "try"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "try-page --model 'runs/demo/students/0.1x/model.onnx' --output 'runs/demo/try.html'" in done.stdout
    done = subprocess.run([*command, "MODEL=a b.onnx"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "try-page --model 'a b.onnx' --output 'build/try.html'" in done.stdout
