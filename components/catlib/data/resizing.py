"""Resizes decoded images by the convention of the published implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.catlib.data.samples import Raster

COLOURS = 3


def resize(image: Image.Image | Raster, size: tuple[int, int]) -> NDArray[Any]:
    """Resizes an image to a height and width; the aspect ratio is not kept.

    Pictures are resampled bicubically with antialiasing. Label maps and instance ids take the nearest pixel. An image
    that has this size is returned as it is, to the bit.

    Args:
        image: Mode RGB, L (labels) or I (instance ids), or the numbers of a science image.
        size: Height and width.

    Returns:
        uint8 [H, W, 3], uint8 [H, W] or int32 [H, W]; of science images [H, W, C] of their type, within their values.
    """
    height, width = size
    if isinstance(image, Raster):
        return image.numbers if image.size == (width, height) else _resize_numbers(image.numbers, size)
    resampling = Image.Resampling.BICUBIC if image.mode == "RGB" else Image.Resampling.NEAREST
    return np.asarray(image.resize((width, height), resampling))


def as_image(packed: NDArray[Any]) -> Image.Image | Raster:
    """Returns what `resize` made in the form that it takes."""
    is_science = packed.ndim == 3 and (packed.dtype != np.uint8 or packed.shape[2] != COLOURS)
    return Raster(packed) if is_science else Image.fromarray(packed)


def _resize_numbers(numbers: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """Resamples each channel as float32, which holds every number of 16 bits; no result overshoots its channel."""
    height, width = size
    resized = np.empty((height, width, numbers.shape[2]), dtype=numbers.dtype)
    for channel in range(numbers.shape[2]):
        plane = np.ascontiguousarray(numbers[..., channel])
        new = np.asarray(
            Image.fromarray(plane.astype(np.float32)).resize((width, height), Image.Resampling.BICUBIC)
        ).clip(plane.min(), plane.max())
        resized[..., channel] = new if numbers.dtype.kind == "f" else np.rint(new)
    return resized
