"""The plan of a sweep."""

from pathlib import Path

import pytest
from kfp import dsl

from components.catlib.code_digest import code_digest
from components.catlib.recipes import load_recipe
from components.sweep.component import plan_sweep
from components.sweep.stage import MOST_STUDENTS

DISTILL = load_recipe("smoke").section("distill")


def test_every_combination_has_its_budget_and_its_settings_and_is_shown(tmp_path: Path) -> None:
    summary = tmp_path / "summary"
    points = plan_sweep.python_func(
        budgets=["0.1x", "0.2x"],
        variations=[{}, {"distiller": {"weight": 0.0}}],
        seeds=[0, 7.0],  # as Kubeflow hands numbers over
        distill=DISTILL,
        code_digest=code_digest("sweep"),
        summary=dsl.Markdown(uri=str(summary)),
    )
    assert len(points) == 8
    assert points[0] == {"budget": "0.1x", "distill": DISTILL | {"seed": 0}}
    assert points[-1] == {
        "budget": "0.2x",
        "distill": DISTILL | {"distiller": DISTILL["distiller"] | {"weight": 0.0}, "seed": 7},
    }
    lines = summary.read_text().splitlines()
    assert lines[0] == "# 8 students"
    assert lines[-1] == "| 0.2x | distiller.weight 0.0 | 7 |"
    assert "| 0.1x | none | 0 |" in lines


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"seeds": list(range(7))}, f"make 14 students; a sweep makes 1 to {MOST_STUDENTS}"),
        ({"seeds": []}, "make 0 students"),
        ({"variations": [{"lambda": 1}, {}]}, "unknown key"),
    ],
)
def test_a_plan_that_cannot_be_made_is_refused(
    change: dict, sentence: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = {"budgets": ["0.1x"], "variations": [{}, {}], "seeds": [0], **change}
    summary = dsl.Markdown(uri=str(tmp_path / "summary"))
    with pytest.raises(SystemExit) as ended:
        plan_sweep.python_func(distill=DISTILL, code_digest=code_digest("sweep"), summary=summary, **arguments)
    assert ended.value.code == 2
    assert sentence in capsys.readouterr().err + caplog.text
