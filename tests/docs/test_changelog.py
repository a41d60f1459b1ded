"""The changelog and the version: what users are told to write is what the code reads."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml

from components import __version__
from components.catlib.config import DistillConfig, Pix2PixDistillConfig, TeacherConfig, validate
from components.catlib.config.sections import models_in, moved_names, moved_out_names
from components.catlib.config.upgrading import upgraded
from components.catlib.errors import UserError

ROOT = Path(__file__).resolve().parents[2]
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")

Move = tuple[str, str, str]
"""Old name, new name, section."""


def moves_of_the_code() -> Iterator[Move]:
    for section, union in (("teacher", TeacherConfig), ("distill", DistillConfig)):
        for model in models_in(get_args(union)[0]):
            moved = moved_names(model) | moved_out_names(model)
            yield from ((old, new, section) for old, new in moved.items())


def moves_of_the_changelog() -> Iterator[Move]:
    for old, new, sections in re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| (.*) \|$", CHANGELOG, re.MULTILINE):
        yield from ((old, new, section) for section in re.findall(r"`(\w+)`", sections))


def test_the_table_of_the_changelog_is_that_of_the_code() -> None:
    written = list(moves_of_the_changelog())
    assert len(written) == len(set(written)) > 20
    assert set(written) == set(moves_of_the_code())


def test_the_section_that_is_shown_in_old_and_new_names_means_the_same() -> None:
    old, new = (yaml.safe_load(block)["distill"] for block in re.findall(r"```yaml\n(.*?)```", CHANGELOG, re.DOTALL))
    with pytest.raises(UserError, match=r"'gan_objective'; it is 'adversarial\.kind' now"):
        validate(Pix2PixDistillConfig, old, where="old")
    now = validate(Pix2PixDistillConfig, new, where="new")
    assert now == validate(Pix2PixDistillConfig, upgraded(old, Pix2PixDistillConfig), where="upgraded")
    assert now != Pix2PixDistillConfig()


def test_the_newest_entry_is_of_this_version() -> None:
    assert re.findall(r"^## ([\d.]+) \(\d{4}-\d\d-\d\d\)$", CHANGELOG, re.MULTILINE)[0] == __version__


def test_files_that_can_read_no_version_name_this_one() -> None:
    files = [
        *(ROOT / "docker").iterdir(),
        *(ROOT / "k8s").rglob("*.*"),
        *(ROOT / "docs").glob("*.md"),
        ROOT / "README.md",
    ]
    pattern = re.compile(r'(?:cat-pipeline:|newTag: |variable "VERSION" \{ default = "|ARG VERSION=)(\d[\w.]*)')
    named = {
        (path.name, version)
        for path in files
        if path.is_file()
        for version in pattern.findall(path.read_text(encoding="utf-8"))
    }
    assert {version for _, version in named} == {__version__}
    assert {"bake.hcl", "compose.yaml", "kustomization.yaml", "README.md"} <= {name for name, _ in named}
