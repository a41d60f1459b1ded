"""Mean squared error of features, through adaptors."""

import pytest
import torch

from components.catlib.config import NormConfig
from components.catlib.config.distillers import MseConfig
from components.catlib.networks.discriminator_architecture import PixelArchitecture
from components.catlib.networks.discriminators import build_discriminator
from components.catlib.objectives.distillers.mse import FeatureAdaptors, FeatureMse
from tests.components.catlib.objectives.tiny import batch, narrower, tiny_generator


@pytest.mark.parametrize("family", ["pix2pix", "spade"])
def test_adaptors_give_the_teachers_channels(family: str) -> None:
    teacher = tiny_generator(family)
    student, source = narrower(teacher), batch(family).source
    _, wanted = teacher(source, return_features=True)
    _, features = student(source, return_features=True)
    assert {name: feature.shape[1] for name, feature in features.items()} == student.architecture.feature_widths
    adapted = FeatureAdaptors(student, teacher)(features)
    assert {name: feature.shape for name, feature in adapted.items()} == {
        name: feature.shape for name, feature in wanted.items()
    }


def test_losses_and_figures_are_the_error_of_adapted_features() -> None:
    teacher = tiny_generator("pix2pix")
    student, source = narrower(teacher), batch("pix2pix").source
    discriminator = build_discriminator(PixelArchitecture(in_channels=3, base_channels=4, norm=NormConfig()))
    own = FeatureMse.own_networks(student, teacher, discriminator)
    assert list(own) == ["adaptors"]
    features, wanted = student(source, return_features=True)[1], teacher(source, return_features=True)[1]
    losses, figures = FeatureMse(MseConfig(), own).compare(features, wanted)
    adapted = own["adaptors"](features)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, (adapted[name] - wanted[name]).square().mean())
        torch.testing.assert_close(figures[name], loss.detach())
        assert not figures[name].requires_grad
