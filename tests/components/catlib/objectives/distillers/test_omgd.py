"""OMGD: closed forms of its losses, and their gradients."""

import pytest
import torch
from torch import Tensor, nn

from components.catlib.config.distillers import OmgdConfig
from components.catlib.metrics import similarity
from components.catlib.objectives.distillers.omgd import (
    ChannelDistillation,
    OmgdOutputLoss,
    channel_distance,
    ssim,
    total_variation,
)
from components.catlib.objectives.perceptual import PerceptualLoss


def _images(seed: int, *shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 - 1


def test_ssim_is_that_of_the_metric() -> None:
    first = _images(0, 2, 3, 16, 20)
    second = 0.7 * first + 0.3 * _images(1, 2, 3, 16, 20)
    assert ssim(first, second).item() == pytest.approx(similarity.ssim(first, second).mean().item(), abs=1e-9)
    assert ssim(first, first).item() == pytest.approx(1)
    assert ssim(first.bfloat16(), second.bfloat16()).dtype == torch.float32


def test_ssim_of_flat_images_by_hand() -> None:
    """Without any deviation only the means count: (2ab + c) / (a² + b² + c), c = 0.02²; also below 11 pixels."""
    first, second = torch.full((1, 1, 4, 8), 0.5), torch.full((1, 1, 4, 8), -0.1)
    assert ssim(first, second).item() == pytest.approx((-0.1 + 4e-4) / (0.26 + 4e-4), rel=1e-3)


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[[[0.0, 1.0], [2.0, 5.0]]]])
    assert total_variation(image).item() == pytest.approx((4 + 16) / 2 + (1 + 9) / 2)


def test_channel_distance_by_hand() -> None:
    student, teacher = torch.zeros(1, 2, 2, 2), torch.zeros(1, 2, 2, 2)
    student[0, 1, 0, 0] = 4.0  # the channel's mean is 1
    assert channel_distance(student, teacher).item() == pytest.approx(1 / 2)
    assert channel_distance(student.flip(2, 3), student).item() == 0  # where in the image does not matter


@pytest.mark.parametrize("loss", [ssim, lambda x, _: total_variation(x), channel_distance])
def test_gradient_is_that_of_the_definition(loss: object) -> None:
    assert callable(loss)
    image, wanted = _images(0, 1, 2, 5, 6).requires_grad_(), _images(1, 1, 2, 5, 6)
    assert torch.autograd.gradcheck(lambda x: loss(x, wanted), (image,))


def test_output_loss_weighs_its_parts() -> None:
    image, wanted = _images(0, 2, 3, 32, 32).float(), _images(1, 2, 3, 32, 32).float()
    perceptual = PerceptualLoss(nn.Sequential(*(nn.Conv2d(3, 3, 1) if n == 0 else nn.Identity() for n in range(30))))
    weights = {"kind": "omgd", "perceptual": {"weight": 3.0, "weights": {"uri": "vgg19.pth"}}}
    config = OmgdConfig.model_validate(weights | {"ssim_weight": 2.0, "total_variation_weight": 0.5})
    expected = 2 * (1 - ssim(image, wanted)) + 0.5 * total_variation(image) + 3 * perceptual(image, wanted)
    torch.testing.assert_close(OmgdOutputLoss(config, perceptual)(image, wanted), expected)
    with pytest.raises(AssertionError, match="needs its network"):
        OmgdOutputLoss(config, None)


def test_channels_are_weighed_in_the_loss_and_not_in_the_figure() -> None:
    student, teacher = {"early": torch.ones(1, 2, 2, 2)}, {"early": torch.zeros(1, 2, 2, 2)}
    losses, figures = ChannelDistillation(OmgdConfig(channel_weight=7), {"adaptors": nn.Identity()}).compare(
        student, teacher
    )
    assert losses["early"].item() == 7
    assert figures["early"].item() == 1
