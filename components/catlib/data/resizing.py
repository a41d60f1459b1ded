"""Resizes decoded images by the convention of the published implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def resize(image: Image.Image, size: tuple[int, int]) -> NDArray[Any]:
    """Resizes an image to a height and width; the aspect ratio is not kept.

    Pictures are resampled bicubically with antialiasing. Label maps and instance ids take the nearest pixel.

    Args:
        image: Mode RGB, L (labels) or I (instance ids).
        size: Height and width.

    Returns:
        uint8 [H, W, 3], uint8 [H, W] or int32 [H, W].
    """
    height, width = size
    resampling = Image.Resampling.BICUBIC if image.mode == "RGB" else Image.Resampling.NEAREST
    return np.asarray(image.resize((width, height), resampling))
