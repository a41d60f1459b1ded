"""Similarity of generated images to the true ones, image by image: L1, PSNR, SSIM.

All take two batches [N, C, H, W], float32 in [-1, 1], and return [N].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

DATA_RANGE = 2.0
"""Width of the value range [-1, 1]."""

HIGHEST_PSNR = 100.0
"""PSNR of equal images would be infinite; it ends here (a mean squared error of 1e-10 of the squared range)."""

SSIM = {"data_range": DATA_RANGE, "channel_axis": 0, "gaussian_weights": True, "use_sample_covariance": False}
"""Settings by which scikit-image computes what the paper defines."""


def l1_distance(generated: Tensor, target: Tensor) -> Tensor:
    """Computes the mean absolute difference per image, in [-1, 1] units: 2 is black against white."""
    return (generated - target).abs().mean(dim=(1, 2, 3))


def psnr(generated: Tensor, target: Tensor) -> Tensor:
    """Computes the peak signal-to-noise ratio per image in dB, 10·log₁₀(range² / MSE), at most `HIGHEST_PSNR`."""
    squared_error = (generated - target).square().mean(dim=(1, 2, 3))
    return (10 * (DATA_RANGE**2 / squared_error).log10()).clamp(max=HIGHEST_PSNR)


def ssim(generated: Tensor, target: Tensor) -> Tensor:
    """Computes structural similarity per image (Wang et al. 2004: Gaussian window of 11 pixels, σ 1.5); 1 is equal.

    The mean over the windows that lie within the image and over the channels. Images need at least 11 pixels on each
    side.

    scikit-image computes it: torchmetrics mirrors the border into its mean (up to 0.5 off), and although it is right to
    1e-12 in float64 once the border is cropped from its full image, it takes 4.5 s and 240 MB to import and 40 times
    the time to compute (8 images of 256 × 256 on a CPU: 7.4 s against 0.17 s; in float32 it is 3e-5 off).
    """
    from skimage.metrics import structural_similarity  # only scoring needs it, not every page that names the metric

    pairs = zip(generated.cpu().double().numpy(), target.cpu().double().numpy(), strict=True)
    values = [structural_similarity(image, true, **SSIM) for image, true in pairs]
    return generated.new_tensor(values)
