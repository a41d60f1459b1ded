"""Which channels of a norm survive a threshold, within a recipe's bounds, and the student's further options."""

from __future__ import annotations

import math
from bisect import bisect_right
from typing import NamedTuple

import numpy as np

from components.catlib.config import PruneConfig
from components.catlib.errors import UserError
from components.catlib.networks.families import Architecture
from components.catlib.networks.layers import PrunableNorm


class Bounds(NamedTuple):
    """Bounds on the number of surviving channels of a norm: at least, at most, in multiples of."""

    least: int
    most: int
    multiple: int


def num_surviving(ascending: list[float], threshold: np.float32, bounds: Bounds) -> int:
    """Decides how many channels of one norm survive.

    Args:
        ascending: The norm's |γ|, sorted.
        threshold: Channels above it survive.
        bounds: Bounds on the number of surviving channels.
    """
    above = len(ascending) - bisect_right(ascending, float(threshold))
    count = min(max(above, bounds.least), bounds.most)
    return count - count % bounds.multiple


def largest_of(magnitude: np.ndarray, count: int) -> np.ndarray:
    """Returns the channels of the `count` largest |γ|, the first ones among equals: indices, int64, ascending."""
    return np.sort(np.argsort(-magnitude, kind="stable")[:count])


def bounds_of(norm: PrunableNorm, config: PruneConfig) -> Bounds:
    """Returns the bounds on a norm's channels, checked against its width."""
    if norm.floor is None:
        return Bounds(0, norm.channels, 1)
    setting, minimum = "min_channels", config.min_channels
    if norm.floor == "min_feature_channels" and (config.min_feature_channels or 0) > minimum:
        setting, minimum = norm.floor, config.min_feature_channels or minimum
    least = math.ceil(minimum * norm.unit / norm.multiple) * norm.multiple
    if least > norm.channels:
        largest = norm.channels // norm.multiple * norm.multiple // norm.unit
        raise UserError(
            f"prune.{setting} is {minimum}, which keeps {least} channels, but the teacher's layer {norm.name} has only "
            f"{norm.channels}; set prune.{setting} to at most {largest}."
        )
    most = norm.channels
    if norm.capped and config.max_first_channels is not None:
        most = min(most, config.max_first_channels * norm.unit)
        if most < least:
            raise UserError(
                f"prune.max_first_channels is {config.max_first_channels}, below the {least // norm.unit} that "
                f"prune.{setting} keeps in {norm.name}; raise prune.max_first_channels or lower prune.{setting}."
            )
    return Bounds(least, most, norm.multiple)


def with_student_options(architecture: Architecture, config: PruneConfig) -> Architecture:
    """Returns the teacher's architecture with the student's norm, padding and activation."""
    options = {
        "norm": config.student_norm,
        "padding": config.student_padding,
        "activation": config.student_activation,
    }
    chosen = {name: value for name, value in options.items() if value is not None}
    idle = [f"student_{name}" for name in chosen if name not in type(architecture).model_fields]
    if config.min_feature_channels is not None and all(
        norm.floor != "min_feature_channels" for norm in architecture.prunable_norms()
    ):
        idle.append("min_feature_channels")
    if idle:
        raise UserError(f"prune.{idle[0]} does not apply to a generator of family {architecture.family}; leave it out.")
    return architecture.model_copy(update=chosen)
