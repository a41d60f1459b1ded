"""The image's name: its tag changes with the code and the lock files and with nothing else."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from components import __version__
from components.catlib.code_digest import ROOT
from components.image import LOCKS, image_name
from components.kubeflow import DEFAULT_IMAGE

FILES = ("components", "pipelines", *LOCKS)


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """What the Dockerfile copies into the image."""
    folder = tmp_path / "copy"
    folder.mkdir()
    for name in FILES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, folder)
    return folder


def test_it_is_version_and_digest() -> None:
    assert re.fullmatch(rf"cat-pipeline:{re.escape(__version__)}-[0-9a-f]{{12}}", image_name())
    assert image_name() == DEFAULT_IMAGE


def test_it_is_the_same_in_the_image(copied: Path) -> None:
    """Without git, compiled files and third-party packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-m", "components.image"], cwd=copied, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{image_name()}\n"
    copies = re.findall(r"^COPY (.*) /opt/cat(?:/\w*)?$", (ROOT / "docker/Dockerfile").read_text(), re.MULTILINE)
    assert sorted(name for line in copies for name in line.split()) == sorted(FILES)


@pytest.mark.parametrize(
    "file",
    [
        "components/catlib/reporting/report.css",
        "components/teacher/component.py",
        "pipelines/recipes/smoke.yaml",
        "pipelines/cluster.py",
        *LOCKS,
    ],
)
def test_a_blank_line_in_what_the_image_holds_is_another_image(file: str, copied: Path) -> None:
    with (copied / file).open("ab") as stream:
        stream.write(b"\n")
    assert image_name(copied) != image_name()


def test_times_and_what_python_leaves_behind_do_not_count(copied: Path) -> None:
    os.utime(copied / "components/image.py", (0, 0))
    (copied / "components/__pycache__").mkdir(exist_ok=True)
    (copied / "components/__pycache__/image.cpython-311.pyc").write_bytes(b"compiled")
    (copied / "components/.image.py.swp").write_bytes(b"an editor's")
    assert image_name(copied) == image_name()


@pytest.mark.parametrize(("flavour", "suffix"), [("cpu", ""), ("cuda", "-cuda")])
def test_make_builds_it_under_this_name_and_as_the_newest_of_its_version(flavour: str, suffix: str) -> None:
    command = ["make", "--dry-run", "docker-image", f"FLAVOUR={flavour}", f"PYTHON={sys.executable}"]
    environment = {name: value for name, value in os.environ.items() if name not in ("IMAGE", "MAKEFLAGS")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    tags = re.findall(r"--tag (\S+)", done.stdout)
    assert tags == [f"{image_name()}{suffix}", f"cat-pipeline:{__version__}{suffix}"]
    named = subprocess.run([*command, "IMAGE=cat:mine"], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert re.findall(r"--tag (\S+)", named.stdout) == ["cat:mine"]
