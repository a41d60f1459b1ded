"""How much memory of a device the stages need that measure images and train nothing: real-stats and evaluate."""

from __future__ import annotations

from components.catlib.footprint.stating import BYTES, Footprint

INCEPTION_PARAMETERS = 23_900_000
"""Weights of the Inception-v3 of FID, about."""

INCEPTION_PASSING = 3 * 64 * 147 * 147
"""Values that it holds at its largest size for one image, which is resized to 299x299 pixels."""


def measuring_footprint(
    batch_size: int, size: tuple[int, int], *, inception: bool, weights: int = 0, passing: int = 0, channels: int = 3
) -> Footprint:
    """Returns what passes without gradients need; networks for mIoU and LPIPS are not in it.

    Args:
        batch_size: Images per forward pass.
        size: Height and width of the images in pixels.
        inception: Whether the features are those of Inception-v3; those of the random network take next to nothing.
        weights: Learned values of the generators that are measured.
        passing: Values that the largest of them holds for one image.
        channels: Channels of what a generator reads and makes, together.
    """
    if inception:
        weights, passing = weights + INCEPTION_PARAMETERS, max(passing, INCEPTION_PASSING)
    return Footprint(BYTES * weights, BYTES * batch_size * (channels * size[0] * size[1] + passing))
