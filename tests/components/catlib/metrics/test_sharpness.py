import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from components.catlib.metrics.sharpness import energy_ratio, gradient_energy


def ratio(generated: Tensor, real: Tensor) -> float:
    return float(energy_ratio(gradient_energy(generated).mean(axis=0), gradient_energy(real).mean(axis=0)))


def ramp(slope: float, *, axis: int = 3) -> Tensor:
    steps = torch.arange(16, dtype=torch.float64) * slope - 0.5
    return (steps if axis == 3 else steps[:, None]).expand(2, 3, 16, 16).float()


def noise(count: int = 4, channels: int = 3) -> Tensor:
    return torch.rand(count, channels, 32, 24, generator=torch.Generator().manual_seed(0)) - 0.5


@pytest.mark.parametrize("axis", [2, 3])
def test_a_ramp_has_the_square_of_its_slope(axis: int):
    assert gradient_energy(ramp(0.05, axis=axis)) == pytest.approx(np.full((2, 1), 0.05**2), rel=1e-5)
    assert ratio(ramp(0.03, axis=axis), ramp(0.05)) == pytest.approx((3 / 5) ** 2, rel=1e-5)


def test_equal_images_have_the_same_energy_and_brightness_does_not_count():
    assert ratio(noise(), noise()) == 1
    assert ratio(noise() + 0.25, noise()) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize("factor", [0.5, 0.9, 1.7])
def test_contrast_counts_squared(factor: float):
    assert ratio(noise() * factor, noise()) == pytest.approx(factor**2, rel=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5])
def test_it_is_the_mean_over_pixels_channels_and_images(channels: int):
    images = noise(channels=channels).double().numpy()
    expected = np.square(np.diff(images, axis=3)).mean() + np.square(np.diff(images, axis=2)).mean()
    assert gradient_energy(noise(channels=channels)).mean() == pytest.approx(expected, rel=1e-12)


def test_blurring_lowers_it_step_by_step_and_noise_raises_it():
    images = noise().numpy()
    blurred = [torch.from_numpy(gaussian_filter(images, (0, 0, sigma, sigma))) for sigma in (0.5, 1.0, 2.0)]
    ratios = [ratio(each, noise()) for each in blurred]
    assert 1 > ratios[0] > ratios[1] > ratios[2] > 0
    assert ratio(blurred[1] + 0.1 * noise().flip(0), blurred[1]) > 1


def test_it_is_not_defined_where_real_images_have_no_gradient():
    assert not np.isfinite(ratio(noise(), torch.zeros(2, 3, 16, 16)))
    assert not np.isfinite(ratio(torch.zeros(2, 3, 16, 16), torch.zeros(2, 3, 16, 16)))
    assert ratio(torch.zeros(2, 3, 16, 16), noise()) == 0
