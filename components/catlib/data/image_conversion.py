"""Converts images to 8-bit RGB, for metrics and for people."""

from __future__ import annotations

import torch
from torch import Tensor


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
