"""The plan of a sweep, and the division of a large grid."""

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from kfp import dsl

from components.catlib.code_digest import code_digest
from components.catlib.errors import UserError
from components.catlib.recipes import load_recipe
from components.sweep.component import plan_sweep
from components.sweep.stage import MOST_STUDENTS, divided

RECIPE = load_recipe("smoke")
DISTILL, PRUNE = RECIPE.section("distill"), RECIPE.section("prune")
STEPS = DISTILL | {"schedule": {"kind": "one_cycle", "warm_up": 0.2}}


def plan(summary: Path, **arguments: Any) -> list[dict[str, Any]]:
    usual = {"budgets": ["0.1x"], "variations": [{}], "seeds": [0], "prune": PRUNE, "distill": DISTILL, "seconds": 0.0}
    return plan_sweep.python_func(
        **usual | arguments, code_digest=code_digest("sweep"), summary=dsl.Markdown(uri=str(summary))
    )


def test_every_combination_has_its_budget_and_its_settings_and_is_shown(tmp_path: Path) -> None:
    points = plan(
        tmp_path / "summary",
        budgets=["0.1x", "0.2x"],
        variations=[{}, {"distiller": {"weight": 0.0}}],
        seeds=[0, 7.0],  # as Kubeflow hands numbers over
    )
    assert len(points) == 8
    assert points[0] == {"budget": "0.1x", "prune": PRUNE, "distill": DISTILL | {"seed": 0}}
    assert points[-1] == {
        "budget": "0.2x",
        "prune": PRUNE,
        "distill": DISTILL | {"distiller": DISTILL["distiller"] | {"weight": 0.0}, "seed": 7},
    }
    lines = (tmp_path / "summary").read_text().splitlines()
    assert lines[0] == "# 8 students"
    assert lines[-1] == "| 0.2x | distiller.weight 0.0 | 7 | as many as its epochs have |"
    assert "| 0.1x | none | 0 | as many as its epochs have |" in lines


def test_equal_cost_gives_each_variation_its_steps_and_a_variation_may_be_one_of_pruning(tmp_path: Path) -> None:
    inherited = {"prune": {"student_init": "inherit"}, "distiller": "mse", "step_seconds": 0.4}
    points = plan(
        tmp_path / "summary",
        variations=[{"distiller": "none", "step_seconds": 0.1}, inherited],
        distill=STEPS,
        seconds=20.0,
    )
    assert [point["distill"]["steps"] for point in points] == [200, 50]
    assert [point["prune"]["student_init"] for point in points] == ["fresh", "inherit"]
    assert "step_seconds" not in points[0]["distill"]
    assert "| 0.1x | prune.student_init inherit, distiller mse | 0 | 50 |" in (tmp_path / "summary").read_text()


def test_a_variation_may_cost_more_than_the_others(tmp_path: Path) -> None:
    longer = [{"step_seconds": 0.1}, {"step_seconds": 0.1, "seconds": 60}]
    points = plan(tmp_path / "summary", variations=longer, distill=STEPS, seconds=20.0)
    assert [point["distill"]["steps"] for point in points] == [200, 600]
    assert "seconds" not in points[1]["distill"]
    assert "| 0.1x | seconds 60 | 0 | 600 |" in (tmp_path / "summary").read_text()
    alike = plan(tmp_path / "summary", variations=longer, distill=STEPS, seconds=0.0)
    assert alike[0] == alike[1], "without sweep.seconds, all train as long as distill says"


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": list(range(13))}, f"make 13 students; a sweep makes 1 to {MOST_STUDENTS}"),
        ({"seeds": []}, "make 0 students"),
        ({"seeds": [-1]}, "sweep.seeds: seed: must be greater than or equal to 0 (found -1)"),
        ({"variations": [{"lambda": 1}, {}]}, "unknown key"),
        ({"variations": [{"prune": {"generator": "target_to_source"}}]}, "without its generator"),
        ({"variations": [{"prune": 3}]}, "prune is 3; give changes to the prune section"),
        ({"variations": [{"prune": {"student_int": "inherit"}}]}, "unknown key 'student_int'"),
        ({"variations": [{"step_seconds": "fast"}]}, "step_seconds is 'fast'; give a number above 0"),
        ({"variations": [{"seconds": 0}]}, "seconds is 0; give a number above 0"),
        ({"variations": [{"seconds": True}]}, "seconds is True; give a number above 0"),
        ({"variations": [{"step_seconds": math.inf}]}, "step_seconds is inf; give a number above 0"),
        ({"variations": [{"seconds": math.inf}]}, "seconds is inf; give a number above 0"),
        (
            {"seconds": 1e300, "distill": STEPS, "variations": [{"step_seconds": 1e-300}]},
            "more than any training takes; correct seconds or step_seconds",
        ),
        ({"seconds": 9.0, "distill": STEPS}, "each entry of sweep.variations needs its step_seconds and no steps"),
        (
            {"seconds": 9.0, "distill": STEPS, "variations": [{"step_seconds": 1, "steps": 5}]},
            "needs its step_seconds and no steps",
        ),
        (
            {"seconds": 9.0, "distill": STEPS, "variations": [{"step_seconds": 1, "epochs": 5}]},
            "needs its step_seconds and no steps or epochs",
        ),
        (
            {"seconds": 9.0, "distill": STEPS | {"steps": 20}, "variations": [{"step_seconds": 1}]},
            "distill.steps is 20, but sweep.seconds is 9, which gives each student its steps",
        ),
        ({"variations": [{"seed": 3}]}, "has a seed, but every variation is trained with all of sweep.seeds"),
        ({"seconds": 9.0, "variations": [{"step_seconds": 1}]}, "set schedule: one_cycle, or steps: null"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(
    change: dict, sentence: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        plan(tmp_path / "summary", **change)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err + caplog.text


def test_steps_beside_equal_seconds_are_refused_and_either_can_be_given_up() -> None:
    with pytest.raises(UserError, match=r"set sweep\.seconds=0 or distill\.steps=null"):
        load_recipe("championship", ["distill.steps=60"])
    for way_out, steps in (("sweep.seconds=0", 60), ("distill.steps=null", 361)):
        first = next(load_recipe("championship", ["distill.steps=60", way_out]).variations())
        assert first.distill.steps == steps


sizes = st.integers(1, 40)


@given(sizes, sizes, sizes)
def test_a_divided_grid_has_every_student_once_in_sweeps_that_are_small_enough(
    budgets: int, variations: int, seeds: int
) -> None:
    grid = [str(each) for each in range(budgets)], [{"steps": each} for each in range(variations)], list(range(seeds))
    found = list(divided(*grid))
    students = [
        (budget, variation["steps"], seed)
        for part in found
        for budget in part["budgets"]
        for variation in part["variations"]
        for seed in part["seeds"]
    ]
    assert len(students) == len(set(students)) == budgets * variations * seeds
    for part in found:
        assert 0 < len(part["budgets"]) * len(part["variations"]) * len(part["seeds"]) <= MOST_STUDENTS


def test_sweeps_are_divided_by_seeds_so_that_each_has_all_variations() -> None:
    variations = [{"steps": number} for number in range(1, 10)]
    found = list(divided(["0.1x"], variations, [0, 1, 2, 3, 4]))
    assert [part["seeds"] for part in found] == [[0], [1], [2], [3], [4]]
    assert all(part["variations"] == variations for part in found)
    assert [part["seeds"] for part in divided(["1x"], [{}, {}], [5, 6, 7, 8, 9, 10, 11])] == [[5, 6, 7], [8, 9, 10, 11]]
    assert len(list(divided(["1x"], [{}, {}, {}], [0, 1, 2, 3]))) == 1
