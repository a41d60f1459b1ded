"""GPU-hours come from measured steps alone; memory is foretold without torch."""

import itertools
import subprocess
import sys
from typing import Any

import pytest

from components.catlib.recipes import load_recipe
from pipelines import forecasting
from pipelines.__main__ import main
from pipelines.forecasting import forecast
from pipelines.preflight import Plan
from pipelines.step_costs import StepCost, step_costs


def cost(**changed: Any) -> StepCost:
    facts = {"device": "cuda", "machine": "NVIDIA X", "precision": "fp32", "torch": "2.0", "date": "2026-12-01"}
    facts |= {"family": "pix2pix", "stage": "teacher", "batch_size": 4, "size": [32, 64], "work_macs": 1, "flops": 10}
    return StepCost.model_validate(facts | {"seconds": 3600} | changed)


def hours(monkeypatch: pytest.MonkeyPatch, costs: list[StepCost], *overrides: str) -> list[str]:
    monkeypatch.setattr(forecasting, "step_costs", lambda: costs)
    return forecast(Plan("compress", load_recipe("smoke", list(overrides)), {})).gpu_hours


def test_hours_grow_with_the_work_of_a_step(monkeypatch: pytest.MonkeyPatch) -> None:
    made = forecast(Plan("compress", load_recipe("smoke"), {}))
    costs = [cost(), cost(machine="NVIDIA Y", work_macs=made.work_macs["teacher"] // 2)]
    teacher, student = hours(monkeypatch, costs)
    assert teacher == (
        f"GPU-hours of teacher: about {2 * made.steps['teacher']:.3g} on one NVIDIA Y, if they grow with the MACs of a "
        "step (measured on 2026-12-01: 3.6e+03 s per step of 4 images of 32x64)"
    )
    assert student == "GPU-hours of distill are not known: no GPU has been measured with such steps."


@pytest.mark.parametrize("other", [{"device": "cpu"}, {"precision": "bf16"}])
def test_without_such_a_gpu_the_operations_are_told(other: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    made = forecast(Plan("compress", load_recipe("smoke"), {}))
    flops = 10 * made.work_macs["teacher"] * made.steps["teacher"]
    teacher, _ = hours(monkeypatch, [cost(**other), cost(family="spade"), cost(stage="distill", family="cyclegan")])
    assert teacher.endswith(f"no GPU has been measured with such steps; it takes about {flops:.2g} FLOPs.")


def test_the_file_of_measurements_is_whole() -> None:
    """Every family and stage is there, so that at least the operations of any run are told."""
    families, stages = ("pix2pix", "cyclegan", "spade"), ("teacher", "distill")
    assert {(cost.family, cost.stage) for cost in step_costs()} == set(itertools.product(families, stages))


def test_memory_is_foretold_without_torch() -> None:
    code = (
        "import sys; from components.catlib.recipes import load_recipe; from pipelines.forecasting import forecast; "
        "from pipelines.preflight import Plan; made = forecast(Plan('compress', load_recipe('horse2zebra'), {})); "
        "print(sorted(made.memory_bytes), 'torch' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "['distill', 'evaluate', 'real-stats', 'teacher'] False\n"


def test_costs_are_told_though_a_file_is_missing(capsys: pytest.CaptureFixture[str]) -> None:
    missing = ["--set", "real_stats.features=inception", "--set", "real_stats.weights={uri: /nowhere/inception.pth}"]
    assert main(["validate", "--recipe", "smoke", *missing]) == 2
    said = capsys.readouterr().err.splitlines()
    assert "/nowhere/inception.pth" in said[-1]
    assert [line.split(":")[0] for line in said if line.startswith("memory of")] == [
        f"memory of {stage}" for stage in ("real-stats", "teacher", "distill", "evaluate")
    ]
    assert sum(line.startswith("GPU-hours of") for line in said) == 2
