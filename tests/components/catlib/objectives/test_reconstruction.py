"""Pixel losses and feature matching by hand."""

import pytest
import torch

from components.catlib.config.losses import PixelLossConfig
from components.catlib.objectives.reconstruction import feature_matching_loss, reconstruction_loss

IMAGE, TARGET = torch.tensor([0.0, 0.0, 1.0, -1.0]), torch.tensor([0.5, -2.0, 1.0, -1.0])


@pytest.mark.parametrize(("kind", "expected"), [("l1", 2.5 / 4), ("l2", 4.25 / 4), ("smooth_l1", (0.125 + 1.5) / 4)])
def test_by_hand(kind: str, expected: float) -> None:
    loss = reconstruction_loss(PixelLossConfig(kind=kind), None)
    assert loss(IMAGE, TARGET).item() == pytest.approx(expected)
    assert loss(IMAGE.bfloat16(), TARGET).dtype == torch.float32


def test_feature_matching_by_hand() -> None:
    """Logits do not count; scales are averaged, features of a scale summed."""
    ones, zeros = torch.ones(2, 3, 4, 4), torch.zeros(2, 3, 4, 4)
    fake = [[ones.requires_grad_(), 2 * ones, 9 * ones], [ones, 9 * ones]]
    real = [[zeros.requires_grad_(), zeros, zeros], [3 * ones, zeros]]
    loss = feature_matching_loss(fake, real)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(((1 + 2) + 2) / 2)
    loss.backward()
    assert ones.grad is not None
    assert zeros.grad is None, "real images teach the generator nothing"
