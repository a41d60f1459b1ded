"""What a generator must beat: the one constant picture that is closest to all held-out targets."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class ConstantPicture:
    """A picture of a single colour, the same for every input.

    Attributes:
        colour: Red, green, blue, 0 to 255.
        l1: Mean absolute difference to the targets, in units of the [-1, 1] range.
    """

    colour: tuple[int, int, int]
    l1: float


def best_constant_picture(batches: Iterable[NDArray[np.uint8]]) -> ConstantPicture:
    """Finds the constant colour with the smallest L1 to a set of images: the median of each channel.

    It is fitted to the very images that it is judged on, so no constant colour does better. The grey values 0, 10 and
    255, for example, have the median 10 and an L1 of (10 + 0 + 245) / 3 grey values.

    Args:
        batches: uint8 RGB [N, H, W, 3] each, at least one image in all.
    """
    counts = np.zeros((3, 256), dtype=np.int64)
    for batch in batches:
        for channel in range(3):
            counts[channel] += np.bincount(batch[..., channel].ravel(), minlength=256)
    num_values = int(counts[0].sum())
    assert num_values > 0, "no images to fit a constant picture to"
    medians = [int(np.searchsorted(np.cumsum(channel), num_values / 2)) for channel in counts]
    differences = [counts[channel] @ np.abs(np.arange(256) - median) for channel, median in enumerate(medians)]
    red, green, blue = medians
    return ConstantPicture((red, green, blue), l1=float(sum(differences)) / (3 * num_values) / 127.5)
