"""Adversarial objectives by hand, for several scales, and the gradient penalty in closed form."""

import itertools
import math

import pytest
import torch
from torch import nn

from components.catlib.objectives.adversarial import discriminator_loss, generator_loss, gradient_penalty

OBJECTIVES = ("lsgan", "vanilla", "hinge", "wgangp")
LOGITS = torch.tensor([[[[2.0, -0.5]]]])
SIGMOID = 1 / (1 + math.exp(-2)), 1 / (1 + math.exp(0.5))


@pytest.mark.parametrize(
    ("objective", "real", "expected"),
    [
        ("lsgan", True, (1.0 + 2.25) / 2),
        ("lsgan", False, (4.0 + 0.25) / 2),
        ("vanilla", True, -(math.log(SIGMOID[0]) + math.log(SIGMOID[1])) / 2),
        ("vanilla", False, -(math.log(1 - SIGMOID[0]) + math.log(1 - SIGMOID[1])) / 2),
        ("hinge", True, (0.0 + 1.5) / 2),
        ("hinge", False, (3.0 + 0.5) / 2),
        ("wgangp", True, -0.75),
        ("wgangp", False, 0.75),
    ],
)
def test_discriminator_loss_by_hand(objective: str, real: bool, expected: float) -> None:
    assert discriminator_loss(objective, LOGITS, real=real).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("objective", "expected"),
    [("lsgan", 1.625), ("vanilla", -(math.log(SIGMOID[0]) + math.log(SIGMOID[1])) / 2), ("hinge", -0.75)],
)
def test_generator_loss_by_hand(objective: str, expected: float) -> None:
    assert generator_loss(objective, LOGITS).item() == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("objective", "dtype"), [*itertools.product(OBJECTIVES, (torch.float32, torch.bfloat16))])
def test_always_a_float32_scalar_averaged_over_scales(objective: str, dtype: torch.dtype) -> None:
    first, second = torch.randn(2, 1, 5, 4).to(dtype), torch.randn(2, 1, 3, 2).to(dtype)
    scales = [[torch.randn(2, 8, 5, 4), first], [torch.randn(2, 8, 3, 2), second]]
    for loss in (generator_loss, lambda *given: discriminator_loss(*given, real=True)):
        together, alone = loss(objective, scales), [loss(objective, logits) for logits in (first, second)]
        assert together.shape == alone[0].shape == ()
        assert together.dtype == torch.float32
        torch.testing.assert_close(together, (alone[0] + alone[1]) / 2)


@pytest.mark.parametrize("num_scales", [0, 2])
def test_gradient_penalty_of_a_linear_critic(num_scales: int) -> None:
    """A critic whose logits are all ⟨w, x⟩ has the slope w everywhere."""
    weight = torch.tensor([0.3, -0.4], requires_grad=True)
    slope = 0.5 * math.sqrt(6)  # of 2 channels x 3 x 2 pixels, the norm of w at every pixel

    def critic(images: torch.Tensor) -> torch.Tensor | list[list[torch.Tensor]]:
        logits = (images * weight[:, None, None]).sum(dim=(1, 2, 3), keepdim=True).expand(-1, 1, 4, 4)
        return [[images, logits]] * num_scales if num_scales else logits

    penalty = gradient_penalty(critic, torch.randn(5, 2, 3, 2), torch.randn(5, 2, 3, 2))
    assert penalty.item() == pytest.approx((slope - 1) ** 2, rel=1e-5)
    penalty.backward()
    expected = 2 * (slope - 1) * math.sqrt(6) * weight.detach() / 0.5
    torch.testing.assert_close(weight.grad, expected)


def test_gradient_penalty_looks_between_real_and_fake() -> None:
    seen: list[torch.Tensor] = []
    network = nn.Conv2d(1, 1, 1)

    def critic(images: torch.Tensor) -> torch.Tensor:
        seen.append(images.detach())
        return network(images)

    gradient_penalty(critic, torch.zeros(6, 1, 2, 2), torch.ones(6, 1, 2, 2, requires_grad=True)).backward()
    (between,) = seen
    shares = between.flatten(1)
    assert ((shares > 0) & (shares < 1)).all()
    assert (shares == shares[:, :1]).all()
    assert len(shares[:, 0].unique()) == 6
