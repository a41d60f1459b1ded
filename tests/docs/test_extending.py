"""Every change in docs/extending.md is applied to a copy of the repository and used there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PATCHES = {
    heading: re.findall(r"^```diff\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    for heading, section in re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", DOCUMENT, re.MULTILINE | re.DOTALL)
}
MOST_FILES = {
    "A family of generators": 5,
    "A distillation loss": 3,
    "A metric": 2,
    "A store": 2,
    "A pipeline parameter": 2,
}
GOLDEN_STRUCTURES = {"compress.yaml", "distill-only.yaml", "evaluate-only.yaml", "sweep.yaml"}
"""Golden files that the new parameter changes."""
GOLDEN_DEFAULTS = {"recipes/defaults.yaml"}
"""Golden file that new settings change: those of the family and of the distillation loss."""

LARGE = shutil.ignore_patterns("fixtures", "kept", "browser", "benchmarks", "docker", "k8s", "*.webp")


class Copy(NamedTuple):
    """A copy of the repository with all changes, and the files that each of them touched."""

    folder: Path
    touched: dict[str, set[str]]


def run(folder: Path, *command: str) -> None:
    """Runs a command in the copy, where its own modules come first; no repository around the copy counts."""
    environment = os.environ | {"PYTHONPATH": str(folder), "GIT_CEILING_DIRECTORIES": str(folder.parent)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pyc")
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def changed(before: dict[str, bytes], after: dict[str, bytes]) -> set[str]:
    return {name for name in before | after if before.get(name) != after.get(name)}


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    made = Copy(tmp_path_factory.mktemp("changed") / "copy", {})
    for name in ("components", "pipelines", "tests"):
        shutil.copytree(ROOT / name, made.folder / name, ignore=LARGE)
    shutil.copy(ROOT / "pyproject.toml", made.folder)
    for heading, patches in PATCHES.items():
        before = contents(made.folder)
        for patch in patches:
            file = made.folder.with_name("change.patch")
            file.write_text(patch, encoding="utf-8")
            run(made.folder, "git", "apply", str(file))
        made.touched[heading] = changed(before, contents(made.folder))
    return made


def test_every_change_is_one_patch_and_as_short_as_promised(copy: Copy) -> None:
    assert {heading: len(patches) for heading, patches in PATCHES.items()} == dict.fromkeys(MOST_FILES, 1)
    for heading, (patch,) in PATCHES.items():
        named = set(re.findall(r"^\+\+\+ b/(.+)$", patch, re.MULTILINE))
        assert copy.touched[heading] == named
        assert len(named) <= MOST_FILES[heading]


def test_no_change_builds_on_another(copy: Copy) -> None:
    names = [name for touched in copy.touched.values() for name in touched]
    assert len(names) == len(set(names))


def test_the_changes_work_and_no_other_golden_files_follow(copy: Copy) -> None:
    """The copy runs what lies in tests/docs/extending/, one file per change, and writes its golden files anew."""
    golden = copy.folder / "tests" / "pipelines" / "golden"
    before = contents(golden)
    used = [f"tests/docs/extending/{name}.py" for name in ("family", "distiller", "metric", "store", "parameter")]
    that_write = ["tests/pipelines/test_golden.py", "--update-golden", "-k", "not recipe_changes_defaults"]
    run(copy.folder, sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", *used, *that_write)
    assert changed(before, contents(golden)) == GOLDEN_STRUCTURES | GOLDEN_DEFAULTS
