"""The board: every row's settings are settings of today, and its first row reaches its aim."""

import re
from pathlib import Path

import pytest

from components.catlib.recipes import load_recipe

PAGE = (Path(__file__).parents[2] / "docs" / "time_to_quality.md").read_text(encoding="utf-8")


def rows(recipe: str) -> list[dict[str, str]]:
    """Returns the rows of the table below a section's command, by the names of its columns."""
    section = PAGE.split(f": `{recipe}`\n", 1)[1].split("\n## ", 1)[0]
    table = section[section.index("| date |") :].split("\n\n", 1)[0].splitlines()
    names, _, *lines = ([cell.strip() for cell in line.strip("|").split("|")] for line in table)
    return [dict(zip(names, line, strict=True)) for line in lines]


@pytest.mark.parametrize("recipe", ["demo-fast", "demo"])
def test_settings_of_every_row_are_valid(recipe: str) -> None:
    for row in rows(recipe):
        load_recipe(recipe, re.findall(r"[a-z_.]+=\S+", row["settings"].replace("`", " ")))
    assert len(rows(recipe)) > 10


def test_the_first_row_reaches_the_aim() -> None:
    first = rows("demo-fast")[0]
    assert first["settings"] == ""
    assert float(first["seconds"]) <= 120
    assert float(first["L1"]) <= 0.212
    assert float(first["SSIM"]) >= 0.298
    assert float(first["Fréchet"]) <= 35
