"""The plan of a sweep."""

import pytest

from components.catlib.config import load_recipe
from components.sweep.component import plan_sweep

DISTILL = load_recipe("smoke").section("distill")


def test_every_combination_has_its_budget_and_its_settings() -> None:
    points = plan_sweep.python_func(
        budgets=["0.1x", "0.2x"],
        variations=[{}, {"lambda_distill": 0.0}],
        seeds=[0, 7],
        distill=DISTILL,
        most=8,
        code_digest="",
    )
    assert len(points) == 8
    assert points[0] == {"budget": "0.1x", "distill": DISTILL | {"seed": 0}}
    assert points[-1] == {"budget": "0.2x", "distill": DISTILL | {"lambda_distill": 0.0, "seed": 7}}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"most": 1}, "make 2 students; a sweep makes 1 to 1"),
        ({"seeds": []}, "make 0 students"),
        ({"variations": [{"lambda": 1}, {}]}, "unknown key"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(
    change: dict, sentence: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"budgets": ["0.1x"], "variations": [{}, {}], "seeds": [0], "most": 12, **change}
    with pytest.raises(SystemExit) as ended:
        plan_sweep.python_func(distill=DISTILL, code_digest="", **arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err + caplog.text
