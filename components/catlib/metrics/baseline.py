"""Baselines that a generator must beat: the best picture of a single colour, and the unchanged input."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from components.catlib.metrics.held_out import HeldOut
from components.catlib.metrics.scoring import score_generator
from components.catlib.networks.directions import Domain


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


def baselines(held_out: HeldOut) -> dict[str, Any]:
    """Measures the baselines, which need no network.

    Returns:
        With true targets the best constant picture: `constant_l1` and its `constant_colour`. Where inputs are pictures,
        the scores of the `unchanged_input`.
    """
    dataset = held_out.dataset
    measured: dict[str, Any] = {}
    if dataset.test_is_paired:
        constant = best_constant_picture(_target_batches(held_out))
        measured |= {"constant_l1": constant.l1, "constant_colour": list(constant.colour)}
    if dataset.pairing != "labels":
        measured["unchanged_input"] = score_generator(
            nn.Identity(),
            dataset,
            held_out.statistics,
            direction=held_out.direction,
            batch_size=held_out.batch_size,
            device=held_out.device,
        )
    return measured


def _target_batches(held_out: HeldOut) -> Iterator[NDArray[np.uint8]]:
    split = held_out.dataset.split("test")
    images = split.target if held_out.direction.output is Domain.TARGET else split.source
    for start in range(0, len(images), held_out.batch_size):
        yield images[start : start + held_out.batch_size]
