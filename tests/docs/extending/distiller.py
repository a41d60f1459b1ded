"""Run in a copy that has the attention distiller: its values, and a step with it."""

import math

import pytest
import torch
from torch import Tensor

from components.catlib.config.distillers import AttentionConfig
from components.catlib.objectives.distillers.attention import AttentionTransfer
from tests.components.catlib.objectives.test_distillation import build
from tests.components.catlib.objectives.tiny import assert_gradient_reaches_everything, batch


def compared(student: Tensor, teacher: Tensor) -> float:
    losses, shown = AttentionTransfer(AttentionConfig(), {}).compare({"a": student}, {"a": teacher})
    assert losses["a"].item() == shown["a"].item()
    return losses["a"].item()


def test_networks_that_look_at_other_places_are_as_far_apart_as_can_be() -> None:
    left, right = torch.zeros(2, 3, 1, 2), torch.zeros(2, 5, 1, 2)
    left[..., 0], right[..., 1] = 4, 0.5
    assert compared(left, right) == pytest.approx(2)
    assert compared(left, 7 * left) == pytest.approx(0)
    assert compared(left, left[:, :1] + right[:, :1] * 8) == pytest.approx(2 - math.sqrt(2))  # maps at 45°
    assert compared(torch.zeros(2, 3, 1, 2), right) == pytest.approx(1)


@pytest.mark.parametrize("family", ["pix2pix", "spade"])
def test_a_step_reaches_every_parameter_of_the_student(family: str) -> None:
    objective = build(family, distiller={"kind": "attention", "weight": 3.0})
    losses = objective.step(batch(family))
    assert_gradient_reaches_everything(objective.networks)
    shown = [loss.item() for name, loss in losses.items() if name.startswith("inattention_")]
    assert len(shown) >= 3
    assert all(0 < value < 2 for value in shown)
    assert losses["distillation"].item() == pytest.approx(3 * sum(shown))
