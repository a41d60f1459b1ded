"""Images as the metrics and people see them: 8-bit RGB."""

from __future__ import annotations

import torch
from torch import Tensor


def to_uint8(images: Tensor) -> Tensor:
    """Converts images from [-1, 1] to 8-bit by rounding to the nearest grey value.

    Differs: the published implementation truncates, so that 63 of the 256 grey values come back one lower after a round
    trip through [-1, 1]. Here every grey value survives it.

    Args:
        images: Any shape, floating point; values outside [-1, 1] are clipped.

    Returns:
        The same shape, uint8.
    """
    assert images.is_floating_point(), f"expected floating point images, got {images.dtype}"
    return ((images.float() + 1.0) * 127.5).round_().clamp_(0, 255).to(torch.uint8)
