"""A recipe as it is resolved, and a run's costs before it starts."""

import json
from pathlib import Path

import pytest
import yaml
from PIL import Image

from components.catlib.recipes import load_recipe, recipe_names
from pipelines.__main__ import main
from pipelines.forecasting import Forecast, forecast
from pipelines.preflight import Plan
from pipelines.showing import Resolved


def resolved(name: str, *overrides: str) -> Resolved:
    return Resolved.of(load_recipe(name, list(overrides)), written=load_recipe(name), defaults=load_recipe(None))


@pytest.mark.parametrize("name", recipe_names())
def test_a_shown_recipe_is_the_recipe(name: str, tmp_path: Path) -> None:
    shown = resolved(name, "teacher.seed=7", "dataset.max_images=3")
    assert yaml.safe_load(shown.text()) == shown.settings
    file = tmp_path / "shown.yaml"
    file.write_text(shown.text(), encoding="utf-8")
    assert load_recipe(str(file)) == load_recipe(name, ["teacher.seed=7", "dataset.max_images=3"])


def test_comments_tell_what_differs_from_the_file_and_from_the_defaults() -> None:
    lines = resolved("smoke", "teacher.epochs=7", "distill.schedule=cosine", "dataset.layout=auto").text().splitlines()
    assert "  epochs: 7  # overridden; the recipe: 1" in lines
    assert "    kind: cosine  # overridden; the recipe: linear" in lines
    assert "  max_images: 24  # by the recipe; default: null" in lines
    assert "  layout: auto" in lines, "an override that changes nothing"


def test_what_is_overridden_has_both_values() -> None:
    shown = resolved("smoke", "teacher.epochs=7", "resources.node_selector={pool: a}")
    assert shown.overridden() == {
        "teacher.epochs": {"is": 7, "was": 1},
        "resources.node_selector.pool": {"is": "a", "was": None},
        "resources.node_selector": {"is": None, "was": {}},
    }
    assert resolved("smoke").overridden() == {}


def test_show_prints_it_and_refuses_what_a_run_would(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "smoke", "--set", "teacher.epochs=7", "--budget", "0.4x"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["budgets"] == ["0.4x"]
    assert main(["show", "smoke", "--set", "teacher.epochs=7", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["overridden"] == {"teacher.epochs": {"is": 7, "was": 1}}
    assert answer["recipe"]["teacher"]["epochs"] == 7
    assert main(["show", "nosuch"]) == 2
    assert "There is no recipe 'nosuch'" in capsys.readouterr().err


# ----------------------------------------------------------------------------------------------------------- the costs


def costs(recipe: str, *overrides: str, pipeline: str = "compress", budgets: list[str] | None = None) -> Forecast:
    return forecast(Plan(pipeline, load_recipe(recipe, list(overrides), budgets), {}))


def test_a_forecast_holds_what_the_run_will_find() -> None:
    """24 images in batches of 8 are 3 steps an epoch."""
    made = costs("smoke", "teacher.epochs=5", "teacher.decay_epochs=2", budgets=["0.3x", "2e6"])
    assert made.images == 24
    assert made.steps == {"teacher": 21, "distill": 6}
    assert made.teacher_macs is not None
    assert made.budgets == {"0.3x": int(0.3 * made.teacher_macs), "2e+06": 2_000_000}
    assert made.disk_bytes["packed images"] >= 24 * 2 * 36 * 36 * 3
    lines = list(made.lines())
    assert "steps of distill: 6 for each student" in lines
    assert any(line.startswith("student 2e+06: at most 2.00 M MACs, 0.288x") for line in lines)


def test_a_recipe_without_images_tells_its_macs_and_not_its_steps() -> None:
    made = costs("horse2zebra")
    assert made.teacher_macs == pytest.approx(43.5e9, rel=0.01)
    assert made.steps == {}
    assert any("number of images" in line for line in made.lines())


def test_images_on_this_machine_are_counted(tmp_path: Path) -> None:
    for number in range(11):
        for folder in ("train", "test"):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.new("RGB", (16, 8)).save(tmp_path / folder / f"{number}.png")
    source = (f"dataset.source={tmp_path}", "dataset.max_images=null")
    assert costs("smoke", *source, "distill.batch_size=2").steps == {"teacher": 2, "distill": 10}
    assert costs("smoke", *source).images == 11


@pytest.mark.parametrize(
    ("pipeline", "steps"), [("sweep", {"teacher", "distill"}), ("distill-only", {"distill"}), ("evaluate-only", set())]
)
def test_only_what_the_pipeline_runs_is_foretold(pipeline: str, steps: set[str]) -> None:
    made = costs("smoke", pipeline=pipeline)
    assert set(made.steps) == steps
    assert bool(made.budgets) == (pipeline == "sweep")


def test_a_sweep_has_the_steps_of_its_variations() -> None:
    """30 seconds make 91 to 361 steps in the championship; the longest training of the ablation has batches of 8."""
    made = costs("championship", pipeline="sweep")
    assert made.steps["distill"] == 361
    assert "steps of distill: 91 to 361, by variation" in list(made.lines())
    ablation = costs("ablation", pipeline="sweep")
    assert (ablation.steps["distill"], ablation.sweep_steps) == (1237, (103, 1237))
    assert ablation.work_macs["distill"] == made.work_macs["distill"]
    assert ablation.memory_bytes["distill"] > 2 * made.memory_bytes["distill"], "a variation has batches of 32"
    equal = costs("smoke", pipeline="sweep")
    assert "steps of distill: 6 for each student" in list(equal.lines())
    wide = costs("smoke", "sweep.variations=[{}, {batch_size: 16}]", pipeline="sweep")
    assert (wide.steps["distill"], wide.sweep_steps) == (6, (2, 6))


def test_label_maps_leave_their_macs_open() -> None:
    made = costs("demo-labels")
    assert made.budgets == {}
    assert any("MACs follow from the teacher" in line for line in made.lines())
