"""Baselines that a generator must beat: the best picture of a single colour, and the unchanged input."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from components.catlib.config.dataset import LARGEST_VALUES, RGB, ValuesConfig
from components.catlib.metrics.held_out import HeldOut, real_batches
from components.catlib.metrics.scoring import score_generator


@dataclass(frozen=True)
class ConstantPicture:
    """A picture of a single colour, the same for every input.

    Attributes:
        colour: The value of every channel; of 8-bit colours red, green, blue, 0 to 255.
        l1: Mean absolute difference to the targets, in units of the [-1, 1] range.
    """

    colour: tuple[float, ...]
    l1: float


FLOAT_LEVELS = 65536
"""Floating-point values are counted in this many levels of their range: their median is exact to half a level."""


def best_constant_picture(batches: Iterable[NDArray[Any]], values: ValuesConfig = RGB) -> ConstantPicture:
    """Finds the constant colour with the smallest L1 to a set of images: the median of each channel.

    It is fitted to the very images that it is judged on, so no constant colour does better. The grey values 0, 10 and
    255, for example, have the median 10 and an L1 of (10 + 0 + 245) / 3 grey values.

    Args:
        batches: Packed images [N, H, W, C] each, at least one image in all.
        values: What their numbers mean.
    """
    low, high = values.range
    whole = values.type in LARGEST_VALUES
    num_levels = LARGEST_VALUES[values.type] + 1 if whole else FLOAT_LEVELS
    first, step = (0, 1) if whole else (low, (high - low) / (num_levels - 1))
    counts = np.zeros((values.channels, num_levels), dtype=np.int64)
    for batch in batches:
        for channel, count in enumerate(counts):
            numbers = batch[..., channel].ravel()
            levels = numbers if whole else np.rint((numbers - np.float64(first)) / step).astype(np.int64)
            count += np.bincount(levels, minlength=num_levels)
    num_values = int(counts[0].sum())
    assert num_values > 0, "no images to fit a constant picture to"
    medians = [int(np.searchsorted(np.cumsum(channel), num_values / 2)) for channel in counts]
    differences = [counts[channel] @ np.abs(np.arange(num_levels) - median) for channel, median in enumerate(medians)]
    half_range = (high - low) / step / 2
    l1 = float(sum(differences)) / (values.channels * num_values) / half_range
    return ConstantPicture(tuple(first + step * median for median in medians), l1)


def baselines(held_out: HeldOut) -> dict[str, Any]:
    """Measures the baselines, which need no network.

    Returns:
        With true targets the best constant picture: `constant_l1` and its `constant_colour`. Where inputs are pictures
        with as many channels as targets, the scores of the `unchanged_input`.
    """
    dataset = held_out.dataset
    measured: dict[str, Any] = {}
    if dataset.test_is_paired:
        real = real_batches(dataset, direction=held_out.direction, batch_size=held_out.batch_size)
        constant = best_constant_picture(real, dataset.values[held_out.direction.output.value])
        measured |= {"constant_l1": constant.l1, "constant_colour": list(constant.colour)}
    if dataset.pairing != "labels" and dataset.in_channels == dataset.out_channels:
        measured["unchanged_input"] = score_generator(
            nn.Identity(),
            dataset,
            held_out.statistics,
            direction=held_out.direction,
            batch_size=held_out.batch_size,
            device=held_out.device,
        )
    return measured
