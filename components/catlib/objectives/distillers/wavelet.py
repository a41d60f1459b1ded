"""Wavelet knowledge distillation: the student learns the fine detail of its teacher's images (Zhang et al., CVPR 2022).

A discrete wavelet transform Ψ cuts an image into a smaller image and bands of detail Ψ_H; the bands alone are compared:

    L = E ‖Ψ_H(teacher's image) − Ψ_H(student's image)‖₁

Here with Haar wavelets. Each 2x2 pixels [[a, b], [c, d]] give the smaller image (a + b + c + d) / 2 and three details,
(a − b + c − d) / 2 (left to right), (a + b − c − d) / 2 (top to bottom) and (a − b − c + d) / 2 (diagonal). The smaller
image is cut again at the next level. So [[1, 0], [0, 0]] has details of 0.5 each.

Differs: the mean of a level stands for the norm, so that no level counts less because it has fewer values.

Shape suffixes: N batch, C channels, H height, W width.
"""

import torch
from torch import Tensor

from components.catlib.config.distillers import WaveletConfig
from components.catlib.objectives.precision import at_least_float32


class WaveletLoss:
    """Compares images by their bands of detail."""

    def __init__(self, config: WaveletConfig) -> None:
        """Takes the number of levels."""
        self._levels = config.levels

    def __call__(self, image: Tensor, wanted: Tensor) -> Tensor:
        """Returns Σ over levels of the mean |difference| of all details of images [N, C, H, W], at least float32."""
        difference = at_least_float32(image) - at_least_float32(wanted)  # the transform is linear
        return torch.stack([band.abs().mean() for band in details(difference, self._levels)]).sum()


def details(image_NCHW: Tensor, levels: int) -> list[Tensor]:
    """Returns the bands of detail of every level, finest first, each [N, 3·C, H / 2^level, W / 2^level].

    Args:
        image_NCHW: Images whose sides are multiples of 2^levels.
        levels: Number of levels.
    """
    bands = []
    for _ in range(levels):
        top, bottom = image_NCHW[..., 0::2, :], image_NCHW[..., 1::2, :]
        sums, differences = (top + bottom) / 2, (top - bottom) / 2
        left_to_right = sums[..., 0::2] - sums[..., 1::2]
        top_to_bottom = differences[..., 0::2] + differences[..., 1::2]
        diagonal = differences[..., 0::2] - differences[..., 1::2]
        bands.append(torch.cat([left_to_right, top_to_bottom, diagonal], dim=1))
        image_NCHW = sums[..., 0::2] + sums[..., 1::2]
    return bands
