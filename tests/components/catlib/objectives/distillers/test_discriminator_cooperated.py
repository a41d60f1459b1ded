"""Discriminator-cooperated distillation: closed forms, sizes that discriminators can judge, and the gradient."""

import pytest
import torch
from torch import nn

from components.catlib.config import NormConfig
from components.catlib.networks.discriminator_architecture import (
    DiscriminatorArchitecture,
    MultiscaleArchitecture,
    PatchArchitecture,
    PixelArchitecture,
)
from components.catlib.networks.discriminators import build_discriminator
from components.catlib.objectives.distillers.discriminator_cooperated import FeatureConnectors, judged_distance
from tests.components.catlib.objectives.tiny import batch, narrower, tiny_generator


class TwoStages(nn.Module):
    """Doubles its input, then adds up 2x2 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = [nn.Conv2d(1, 1, 1, bias=False), nn.Conv2d(1, 1, 2, stride=2, bias=False)]
        for stage, weight in zip(self.stages, (2.0, 1.0), strict=True):
            nn.init.constant_(stage.weight, weight)


def test_mean_over_stages_of_the_mean_difference() -> None:
    first, second = torch.zeros(1, 1, 2, 4), torch.zeros(1, 1, 2, 4)
    first[..., 0, 0] = 1.0
    # Stage 1: one difference of 2 among 8; stage 2: one of 2 among 2.
    assert judged_distance(TwoStages(), first, second).item() == pytest.approx((2 / 8 + 2 / 2) / 2)
    # Of 2x2 pixels the second stage would leave a single value, which a norm could not normalise.
    assert judged_distance(TwoStages(), first[..., :2], second[..., :2]).item() == pytest.approx(2 / 4)


def _architectures() -> list[DiscriminatorArchitecture]:
    return [
        PatchArchitecture(in_channels=3, base_channels=4, num_layers=3, norm=NormConfig()),
        PatchArchitecture(in_channels=3, base_channels=4, num_layers=2, norm=NormConfig(kind="batch")),
        PixelArchitecture(in_channels=3, base_channels=4, norm=NormConfig()),
        MultiscaleArchitecture(in_channels=3, base_channels=4, num_layers=4, num_scales=2),
    ]


@pytest.mark.parametrize("architecture", _architectures(), ids=lambda architecture: architecture.family)
@pytest.mark.parametrize("size", [(2, 2), (2, 4), (8, 8), (32, 64)])
def test_every_discriminator_judges_features_of_every_size(
    architecture: DiscriminatorArchitecture, size: tuple[int, int]
) -> None:
    discriminator = build_discriminator(architecture).eval()
    first, second = torch.randn(2, 3, *size), torch.randn(2, 3, *size)
    assert judged_distance(discriminator, first, second).item() > 0
    assert judged_distance(discriminator, first, first).item() == 0


@pytest.mark.parametrize("architecture", _architectures(), ids=lambda architecture: architecture.family)
def test_stages_are_what_the_discriminator_runs(architecture: DiscriminatorArchitecture) -> None:
    discriminator, x = build_discriminator(architecture).eval(), torch.randn(1, 3, 32, 32)
    judgement, made = discriminator(x), x
    for stage in discriminator.stages:
        made = stage(made)
    if isinstance(judgement, list):
        assert torch.equal(made, judgement[0][-2])
    else:
        last = [module for module in discriminator.modules() if isinstance(module, nn.Conv2d)][-1]
        assert torch.equal(last(made), judgement)


def test_gradient_is_that_of_the_definition() -> None:
    torch.manual_seed(0)
    discriminator = build_discriminator(_architectures()[0]).double().requires_grad_(False)
    first = torch.randn(1, 3, 6, 6, dtype=torch.float64, requires_grad=True)
    second = torch.randn(1, 3, 6, 6, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: judged_distance(discriminator, x, second), (first,))


@pytest.mark.parametrize("family", ["pix2pix", "spade"])
def test_connectors_give_what_a_discriminator_reads(family: str) -> None:
    teacher = tiny_generator(family)
    student, source = narrower(teacher), batch(family).source
    features = [network(source, return_features=True)[1] for network in (student, teacher)]
    connected = FeatureConnectors(student, teacher, 5)(*features)
    assert list(connected) == list(features[1])
    for name, pair in connected.items():
        assert [tensor.shape for tensor in pair] == [(3, 5, *features[1][name].shape[2:])] * 2
        assert all(tensor.std() > 0.1 for tensor in pair)  # the norm keeps them from shrinking
