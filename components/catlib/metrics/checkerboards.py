"""Checkerboards that up-sampling leaves in generated images: peaks in their spectrum that real images lack.

A layer that doubles the size can treat every other row and column differently (Odena et al. 2016, Deconvolution and
Checkerboard Artifacts). The last such layer leaves a pattern with a period of 2 pixels, the one before it 4. Rows and
columns of an image are looked at in windows of 64 pixels, so that the size of the image does not matter: in each
spectrum the power at a period is divided by the power beside it. Sharpness raises or lowers both, so it cancels.

Shape suffixes: N images, C channels, H height, W width, L lines of pixels, S windows in a line, F frequencies,
K = 4 peaks: periods 2 and 4 along rows, then along columns.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

PERIODS = (2, 4)
"""In pixels."""

WINDOW = 64
"""Pixels of a window; windows overlap by half. Images with a shorter side are not measured."""

BESIDE = (2, 3, 4)
"""Distances to the frequencies beside a peak, in 64ths of a cycle per pixel; Hann windows spread a peak to ±1."""

ROUNDING_POWER = (2 / 255) ** 2 / 12
"""Variance of the error of rounding to 8 bits. It is added to every power: what it drowns is not seen."""

_HANN = np.sin(np.pi * np.arange(WINDOW) / WINDOW) ** 2


def peaks(images_NCHW: Tensor) -> NDArray[np.float64]:
    """Measures how far the spectrum of each image stands out at the periods.

    A peak is the logarithm of the power at the period over the geometric mean of the powers beside it, on both sides
    alike, so that a slope of the spectrum makes none. Powers are means over lines, windows and channels. Noise of
    standard deviation σ with a checkerboard ±a has the peaks log(1 + (2/3) · 64 · a² / (σ² + `ROUNDING_POWER`)) at
    period 2 and 0 at period 4.

    Args:
        images_NCHW: float32 in [-1, 1], unrounded.

    Returns:
        [N, 4]; [N, 0] if a side is shorter than `WINDOW`.
    """
    if min(images_NCHW.shape[2:]) < WINDOW:
        return np.empty((len(images_NCHW), 0))
    images = images_NCHW.cpu().double().numpy()
    return np.array([
        [*_peaks_along_rows(image_CHW), *_peaks_along_rows(image_CHW.swapaxes(1, 2))] for image_CHW in images
    ])  # fmt: skip


def largest_ratio(generated_K: NDArray[np.float64], real_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Compares the mean peaks of generated images [..., 4] with those of real ones [4].

    Returns:
        [...]: the largest ratio of the powers over periods and directions. A dip counts as no peak.
    """
    return np.exp((np.maximum(generated_K, 0) - np.maximum(real_K, 0)).max(axis=-1))


def _peaks_along_rows(image_CHW: NDArray[np.float64]) -> list[float]:
    lines_LW = image_CHW.reshape(-1, image_CHW.shape[2])
    windows_LSW = np.lib.stride_tricks.sliding_window_view(lines_LW, WINDOW, axis=1)[:, :: WINDOW // 2]
    spectra_LSF = np.fft.rfft(windows_LSW * _HANN)
    power_F = (np.abs(spectra_LSF) ** 2).mean(axis=(0, 1)) / np.square(_HANN).sum()
    log_power_F = np.log(power_F + ROUNDING_POWER)
    return [_height(log_power_F, WINDOW // period) for period in PERIODS]


def _height(log_power_F: NDArray[np.float64], place: int) -> float:
    """Returns the height of a peak; above the highest frequency, the spectrum of real numbers is mirrored."""
    last = len(log_power_F) - 1
    around = [place + sign * distance for distance in BESIDE for sign in (-1, 1)]
    beside = np.mean([log_power_F[last - abs(last - index)] for index in around])
    return float(log_power_F[place] - beside)
