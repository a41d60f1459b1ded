"""Measured costs of optimisation steps: the one place from which GPU-hours are foretold."""

from __future__ import annotations

import datetime
import json
from pathlib import Path

from pydantic import BaseModel, ConfigDict

from components.catlib.config import Recipe
from components.catlib.config.sections import Positive

FILE = Path(__file__).with_name("step_costs.json")
"""What `make bench BENCH='--step-costs'` measured; docs/benchmarks.md describes it."""


class StepCost(BaseModel):
    """The measured cost of one optimisation step.

    Attributes:
        device: "cpu" or "cuda".
        machine: Name of the GPU, or processor and number of threads.
        precision: As in a recipe.
        torch: Version of torch.
        date: When it was measured.
        family: Family of the teacher: "pix2pix", "cyclegan" or "spade".
        stage: "teacher" or "distill".
        batch_size: Images of the step.
        size: Their height and width in pixels.
        work_macs: What the cost grows with: as `teacher_work` or `student_work` of that step.
        seconds: Seconds of the step, the median.
        flops: Floating-point operations of the step.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    device: str
    machine: str
    precision: str
    torch: str
    date: datetime.date
    family: str
    stage: str
    batch_size: int
    size: tuple[int, int]
    work_macs: int
    seconds: Positive
    flops: int


def step_costs(file: Path = FILE) -> list[StepCost]:
    """Reads the measurements."""
    return [StepCost.model_validate(entry) for entry in json.loads(file.read_text(encoding="utf-8"))["measured"]]


def teacher_work(batch_size: int, teacher_macs: int) -> int:
    """Returns what a teacher's step grows with: MACs of one of its generators, of all images of the batch."""
    return batch_size * teacher_macs


def student_work(batch_size: int, teacher_macs: int, student_macs: int) -> int:
    """Returns what a distillation's step grows with: the teacher runs forwards, the student backwards, too."""
    return batch_size * (teacher_macs + 3 * student_macs)


def gpu_hours(recipe: Recipe, stage: str, *, steps: int, work_macs: int, costs: list[StepCost]) -> str:
    """Returns a sentence on the time that a training takes on the GPU that was measured last.

    Args:
        recipe: The recipe.
        stage: "teacher" or "distill".
        steps: Number of its steps.
        work_macs: What one of them grows with.
        costs: The measurements.
    """
    alike = [cost for cost in costs if (cost.family, cost.stage) == (recipe.teacher.family, stage)]
    precision = getattr(recipe, stage).precision
    measured = [cost for cost in alike if (cost.device, cost.precision) == ("cuda", precision)]
    if measured:
        cost = measured[-1]
        hours = steps * cost.seconds * work_macs / cost.work_macs / 3600
        return (
            f"GPU-hours of {stage}: about {hours:.3g} on one {cost.machine}, if they grow with the MACs of a step "
            f"(measured on {cost.date}: {cost.seconds:.3g} s per step of {cost.batch_size} images of "
            f"{cost.size[0]}x{cost.size[1]})"
        )
    counted = f"; it takes about {steps * alike[-1].flops * work_macs / alike[-1].work_macs:.2g} FLOPs" if alike else ""
    return f"GPU-hours of {stage} are not known: no GPU has been measured with such steps{counted}."
