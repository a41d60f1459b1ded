"""Sharpness of generated images: the energy of their gradients relative to that of real images.

Shape suffixes: N images, C channels, H height, W width, K = 1 number of each image.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor


def gradient_energy(images_NCHW: Tensor) -> NDArray[np.float64]:
    """Computes the mean squared gradient of each image.

    The gradient is the step from a pixel to its right and to its lower neighbour; all channels count alike. A ramp of
    slope a along one axis, in units of [-1, 1] per pixel, has the energy a².

    Args:
        images_NCHW: float32 in [-1, 1], unrounded, at least two pixels on each side.

    Returns:
        [N, 1].
    """
    energies = []
    for image_CHW in images_NCHW.cpu().double().numpy():
        right, down = (np.square(np.diff(image_CHW, axis=axis)).mean() for axis in (2, 1))
        energies.append([right + down])
    return np.array(energies)


def energy_ratio(generated_K: NDArray[np.float64], real_K: NDArray[np.float64]) -> NDArray[np.float64]:
    """Divides mean energies [..., 1] of generated images by that of real ones [1]; not finite if that is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return generated_K[..., 0] / real_K[0]
