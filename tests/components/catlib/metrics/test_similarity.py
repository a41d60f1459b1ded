import math

import pytest
import torch

from components.catlib.metrics.similarity import HIGHEST_PSNR, l1_distance, psnr, ssim


def image(seed: int, count: int = 3) -> torch.Tensor:
    return torch.rand(count, 3, 24, 20, generator=torch.Generator().manual_seed(seed)) * 2 - 1


def test_l1_is_two_between_black_and_white():
    black, white = -torch.ones(2, 3, 4, 4), torch.ones(2, 3, 4, 4)
    white[1, :, :2] = -1
    assert l1_distance(white, black).tolist() == [2.0, 1.0]


def test_psnr_of_a_known_error():
    target = torch.zeros(2, 3, 8, 8)
    generated = target + torch.tensor([0.2, 0.02]).view(2, 1, 1, 1)
    assert psnr(generated, target).tolist() == pytest.approx([20 * math.log10(2 / 0.2), 20 * math.log10(2 / 0.02)])


def test_equal_images_have_finite_scores():
    assert psnr(image(0), image(0)).tolist() == [HIGHEST_PSNR] * 3
    assert ssim(image(0), image(0)).tolist() == pytest.approx([1.0] * 3)


def test_ssim_is_the_mean_over_the_windows_within_the_image():
    """Against the formula of Wang et al. (2004) in float64."""
    generated, target = (image(seed).double() for seed in (0, 1))
    taps = torch.exp(-(torch.arange(-5.0, 6.0, dtype=torch.float64) ** 2) / (2 * 1.5**2))
    window = (taps[:, None] * taps / taps.sum() ** 2).expand(3, 1, 11, 11)

    def mean(values: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.conv2d(values, window, groups=3)

    x, y = mean(generated), mean(target)
    variances = mean(generated**2) - x**2 + mean(target**2) - y**2
    covariance = mean(generated * target) - x * y
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    expected = (2 * x * y + c1) * (2 * covariance + c2) / ((x**2 + y**2 + c1) * (variances + c2))
    assert torch.allclose(ssim(generated, target), expected.mean(dim=(1, 2, 3)), atol=1e-10)


def test_each_image_is_scored_alone():
    generated, target = image(0), image(1)
    for measure in (l1_distance, psnr, ssim):
        together = measure(generated, target)
        assert together.shape == (3,)
        alone = torch.cat([measure(generated[i : i + 1], target[i : i + 1]) for i in range(3)])
        assert torch.allclose(together, alone, atol=1e-6)


def test_more_noise_is_worse():
    target = image(0).cumsum(3).clamp(-1, 1)
    noisy = [target + amount * image(1) for amount in (0.05, 0.2, 0.8)]
    for measure, sign in ((l1_distance, 1), (psnr, -1), (ssim, -1)):
        scores = [sign * measure(candidate, target).mean().item() for candidate in noisy]
        assert scores == sorted(scores)
        assert scores[0] < scores[-1]
