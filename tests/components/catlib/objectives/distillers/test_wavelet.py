"""Wavelet knowledge distillation: closed forms of the Haar transform, its energy, and its gradient."""

import pytest
import torch

from components.catlib.config import Recipe, validate
from components.catlib.config.distillers import WaveletConfig
from components.catlib.errors import UserError
from components.catlib.objectives.distillers.wavelet import WaveletLoss, details


def test_the_example_of_the_docstring() -> None:
    (band,) = details(torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), 1)
    assert band.flatten().tolist() == [0.5, 0.5, 0.5]


def test_each_detail_answers_to_its_own_pattern() -> None:
    left_to_right, top_to_bottom = torch.tensor([[1.0, -1.0]] * 2), torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    patterns = torch.stack([left_to_right, top_to_bottom, left_to_right * top_to_bottom])[:, None]
    (band,) = details(patterns, 1)
    assert torch.equal(band[:, :, 0, 0], 2 * torch.eye(3))


def test_details_and_mean_hold_the_energy_of_the_image() -> None:
    """The transform is orthonormal; after three levels of 8x8 pixels 8 times the mean is left."""
    image = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    bands = details(image, 3)
    assert [tuple(band.shape) for band in bands] == [(2, 9, 4, 4), (2, 9, 2, 2), (2, 9, 1, 1)]
    energy = sum(band.square().sum() for band in bands) + (8 * image.mean(dim=(2, 3))).square().sum()
    torch.testing.assert_close(energy, image.square().sum())


def test_loss_sums_the_means_of_levels_and_ignores_brightness() -> None:
    image, wanted = torch.zeros(1, 1, 4, 4), torch.zeros(1, 1, 4, 4)
    image[..., 0, 0] = 1.0
    loss = WaveletLoss(WaveletConfig(levels=2))
    # Level 1: three details of 1/2 among 12 values; level 2: three of 1/4 among 3 values.
    assert loss(image, wanted).item() == pytest.approx(1.5 / 12 + 0.25)
    assert loss(wanted + 0.3, wanted).item() == 0
    assert loss(image.bfloat16(), wanted.bfloat16()).dtype == torch.float32


def test_gradient_is_that_of_the_definition() -> None:
    image = torch.randn(2, 2, 4, 8, dtype=torch.float64, requires_grad=True)
    wanted = torch.randn(2, 2, 4, 8, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda x: WaveletLoss(WaveletConfig(levels=2))(x, wanted), (image,))


def test_images_that_cannot_be_halved_are_refused_by_the_recipe() -> None:
    settings = {"dataset": {"load_size": 36, "crop_size": 36}, "name": "r", "description": "d", "budgets": ["0.5x"]}
    complaint = (
        r"levels is 3, but images of 36x36 pixels cannot be halved that often; set distiller\.levels to 2 or less"
    )
    with pytest.raises(UserError, match=complaint):
        validate(Recipe, settings | {"distill": {"distiller": "wavelet"}}, where="recipe")
    with pytest.raises(UserError, match=complaint):
        validate(Recipe, settings | {"sweep": {"variations": [{"distiller": "wavelet"}]}}, where="recipe")
    validate(Recipe, settings | {"distill": {"distiller": {"kind": "wavelet", "levels": 2}}}, where="recipe")
