"""The pipeline's command line, without running stages."""

import json
import re
from pathlib import Path

import pytest
import yaml

from components.catlib.recipes import recipe_names
from pipelines.__main__ import main


def test_recipes_are_listed_with_what_they_are_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["recipes"]) == 0
    listing = capsys.readouterr().out
    assert "demo " in listing
    assert "smoke " in listing


def test_compile_writes_a_file_with_the_overrides_as_defaults(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "new" / "p.yaml"
    arguments = ["compile", "--recipe", "smoke", "--set", "teacher.epochs=7", "--budget", "2.6e9", "0.1x"]
    assert main([*arguments, "--image", "mine:1", "--output", str(path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"output": str(path)}
    spec = next(yaml.safe_load_all(path.read_text()))
    defaults = spec["root"]["inputDefinitions"]["parameters"]
    assert defaults["teacher"]["defaultValue"]["epochs"] == 7
    assert defaults["budgets"]["defaultValue"] == ["2.6e+09", "0.1x"]
    assert {task["container"]["image"] for task in spec["deploymentSpec"]["executors"].values()} == {"mine:1"}


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "--recipe", "nosuch"], "There is no recipe 'nosuch'"),
        (["run", "--recipe", "smoke", "--set", "teacher.epoch=1"], "did you mean 'epochs'"),
        (["run", "--recipe", "smoke", "--budget", "lots"], "'lots' is not a compute budget"),
        (["run", "--recipe", "smoke", "--budget", "0.5x", "1000"], "Budget 1000 (1000 MACs) cannot be reached"),
        (["run", "--recipe", "smoke", "--set", "prune.min_channels=9"], "prune.min_channels is 9"),
        (
            ["run", "--recipe", "smoke", "--set", "prune.generator=target_to_source"],
            "pix2pix has only source_to_target",
        ),
        (["run", "--recipe", "smoke", "--set", "teacher.generator.norm.affine=false"], "have no scales to prune by"),
        (["run", "--recipe", "demo-labels", "--set", "prune.min_channels=99"], "prune.min_channels is 99"),
        (
            ["run", "--recipe", "demo-labels", "--set", "prune.student_padding=zero"],
            "does not apply to a generator of family inception_spade",
        ),
        (["run", "--recipe", "smoke", "--argument", "budgets=[0.001x]"], "cannot be reached: the smallest student"),
        (["compile", "--recipe", "smoke", "--output", "pipeline.json"], "must end in .yaml"),
    ],
)
def test_a_mistake_is_one_sentence_and_exit_code_2(
    arguments: list[str],
    sentence: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert sentence in captured.err
    assert captured.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("recipe", ["smoke", "demo", "demo-unpaired", "map2sat", "horse2zebra"])
def test_the_budgets_that_a_refusal_names_are_accepted(recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["validate", "--recipe", recipe, "--budget", "1000"]) == 2
    macs, share = re.findall(r"smallest student has (\d+) MACs, ([\d.]+x)", capsys.readouterr().err)[0]
    assert main(["validate", "--recipe", recipe, "--budget", macs, share]) == 0
    assert main(["validate", "--recipe", recipe, "--budget", str(int(macs) - 1)]) == 2


@pytest.mark.parametrize("recipe", ["demo-labels", "cityscapes-gaugan-30g"])
def test_budgets_for_label_maps_are_checked_when_their_planes_are_known(recipe: str) -> None:
    assert main(["validate", "--recipe", recipe, "--budget", "1000"]) == 0


@pytest.mark.parametrize("recipe", [name for name in recipe_names() if "gaugan" not in name])
def test_the_budgets_of_the_recipes_are_within_reach(recipe: str) -> None:
    assert main(["validate", "--recipe", recipe]) == 0


def test_a_folder_of_something_else_is_no_output(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    assert main(["run", "--recipe", "smoke", "--output", str(tmp_path), "--workspace", str(tmp_path / "w")]) == 2
    assert "exists and holds something else" in capsys.readouterr().err
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compile", "--output", "FILE/c.yaml"],
        ["run", "--workspace", "FILE/ws"],
        ["run", "--output", "FILE/out", "--workspace", "WORKSPACE"],
    ],
)
def test_places_that_cannot_be_written_are_a_sentence(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    command = [argument.replace("FILE", str(file)).replace("WORKSPACE", str(tmp_path)) for argument in arguments]
    assert main([command[0], "--recipe", "smoke", *command[1:]]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("error: ")
    assert str(file) in error
    assert "choose another" in error
    assert file.read_text() == "kept"
