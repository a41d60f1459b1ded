"""GPU-hours come from measured steps alone; memory is foretold without torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from components.catlib.recipes import load_recipe
from pipelines import forecasting
from pipelines.forecasting import forecast
from pipelines.preflight import Plan
from pipelines.step_costs import StepCost, step_costs

ENTRY = (
    "steps:\n  - {recipe: smoke, stage: teacher, batch_size: 8, precision: fp32, seconds: 1800,\n"
    "     device: NVIDIA X, date: 2026-12-01}\n"
)


def hours(*overrides: str) -> list[str]:
    return [
        line for line in forecast(Plan("compress", load_recipe("smoke", list(overrides)), {})).lines() if "GPU-" in line
    ]


def test_hours_follow_from_measured_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each entry says where and when; what was measured with other settings counts for nothing."""
    (tmp_path / "costs.yaml").write_text(ENTRY)
    costs = step_costs(tmp_path / "costs.yaml")
    assert [(cost.device, str(cost.date)) for cost in costs] == [("NVIDIA X", "2026-12-01")]
    monkeypatch.setattr(forecasting, "step_costs", lambda: costs)
    steps = forecast(Plan("compress", load_recipe("smoke"), {})).steps["teacher"]
    unknown = "GPU-hours of distill are not known: no GPU has been measured with such steps."
    measured = f"about {steps / 2:.3g} on one NVIDIA X (1.8e+03 s per step, measured on 2026-12-01)"
    assert hours() == [f"GPU-hours of teacher: {measured}", unknown]
    assert hours("teacher.precision=bf16") == [unknown.replace("distill", "teacher"), unknown]


def test_the_file_of_measurements_is_whole() -> None:
    for cost in step_costs():
        section = getattr(load_recipe(cost.recipe), cost.stage)
        assert "batch_size" in type(section).model_fields
    with pytest.raises(ValidationError):
        StepCost.model_validate({"recipe": "smoke", "seconds": 1})


def test_memory_is_foretold_without_torch() -> None:
    code = (
        "import sys; from components.catlib.recipes import load_recipe; from pipelines.forecasting import forecast; "
        "from pipelines.preflight import Plan; made = forecast(Plan('compress', load_recipe('horse2zebra'), {})); "
        "print(sorted(made.memory_bytes), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "['distill', 'evaluate', 'real-stats', 'teacher'] False\n"
