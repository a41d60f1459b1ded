"""Training in bfloat16: networks run short, losses and kernel alignment in float32."""

import pytest
import torch

from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.generator import Generator
from components.catlib.objectives.distillation import distillation_objective
from components.catlib.objectives.distillers import kernel_alignment as module
from components.catlib.objectives.distillers.kernel_alignment import kernel_alignment
from components.catlib.objectives.precision import at_least_float32
from tests.components.catlib.objectives.test_teachers import build as build_teacher
from tests.components.catlib.objectives.tiny import assert_gradient_reaches_everything, batch, distill_config, narrower


@pytest.fixture
def bfloat16() -> Accelerator:
    """An accelerator in mixed precision."""
    return Accelerator(cpu=True, precision="bf16")


def test_only_short_types_are_widened() -> None:
    for given, expected in (
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
        (torch.float32, torch.float32),
        (torch.float64, torch.float64),
    ):
        assert at_least_float32(torch.ones(1, dtype=given)).dtype == expected


@pytest.mark.parametrize("family", ["pix2pix", "cyclegan", "spade"])
def test_distillation_in_bfloat16(family: str, bfloat16: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    trained = build_teacher(family)
    teacher = trained.generators["source_to_target"]
    assert isinstance(teacher, Generator)
    seen: list[torch.dtype] = []

    def spy(first: torch.Tensor, second: torch.Tensor, *, centred: bool) -> torch.Tensor:
        alignment = kernel_alignment(first, second, centred=centred)
        seen.extend((second.dtype, alignment.dtype))
        return alignment

    monkeypatch.setattr(module, "kernel_alignment", spy)
    objective = distillation_objective(
        distill_config(family),
        {"generator_source_to_target": narrower(teacher), "discriminator_target": trained.discriminators["target"]},
        bfloat16,
        teacher=teacher,
        direction=Direction.SOURCE_TO_TARGET,
    )
    losses = objective.step(batch(family))
    assert all(loss.dtype == torch.float32 and torch.isfinite(loss) for loss in losses.values())
    assert all(dtype == torch.float32 for dtype in seen[1::2])
    assert_gradient_reaches_everything(objective.networks)
    assert all(parameter.dtype == torch.float32 for parameter in objective.generators["source_to_target"].parameters())
