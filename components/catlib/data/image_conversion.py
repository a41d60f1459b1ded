"""Converts images to 8 bits and to three channels, for metrics, networks of photographs and people."""

from __future__ import annotations

import torch
from torch import Tensor

from components.catlib.data.channels import threes


def to_uint8(images: Tensor) -> Tensor:
    """Converts images from [-1, 1] to 8 bits by rounding to the nearest grey value.

    Differs: the published implementation truncates, so that 63 of the 256 grey values come back one lower after a round
    trip through [-1, 1]. Here every grey value survives the round trip.

    Args:
        images: Floating-point images of any shape; values outside [-1, 1] are clipped.

    Returns:
        uint8 of the same shape.
    """
    assert images.is_floating_point(), f"expected floating point images, got {images.dtype}"
    return ((images.float() + 1.0) * 127.5).round_().clamp_(0, 255).to(torch.uint8)


def in_threes(images_NCHW: Tensor) -> Tensor:
    """Shows images of any number of channels to a network of three (`channels.py`).

    Returns:
        [N * G, 3, H, W]: the G threes of the first image, of the second, … Images of three channels are returned as
        they are.
    """
    channels = images_NCHW.shape[1]
    return images_NCHW if channels == 3 else images_NCHW[:, threes(channels)].flatten(0, 1)


def mean_of_threes(seen: Tensor, num_images: int) -> Tensor:
    """Averages what a network makes of the threes of each image, [N * G, ...] from `in_threes`, to [N, ...]."""
    return seen if len(seen) == num_images else seen.unflatten(0, (num_images, -1)).mean(dim=1)


def as_pictures(images_NCHW: Tensor) -> Tensor:
    """Converts images in [-1, 1] of any number of channels to those that people see, uint8 [N, 3, H, W]."""
    channels = images_NCHW.shape[1]
    return to_uint8(images_NCHW if channels == 3 else images_NCHW[:, threes(channels)[0]])
