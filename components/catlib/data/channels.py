"""What the numbers of packed pictures are to networks and to people: 8 bits of their range, three channels at a time.

Networks of photographs and pictures for people have three channels. Images with others are seen in threes; the last
three are filled up with the last channel. One channel is seen as grey, two as (1, 2, 2), and four as (1, 2, 3) and
(4, 4, 4). Networks see all threes, pictures show the first.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.catlib.config.dataset import RGB, ValuesConfig

COLOURS = ("red", "green", "blue")


def threes(channels: int) -> list[list[int]]:
    """Returns the channels that are seen together as red, green and blue, counted from 0."""
    return [[min(each, channels - 1) for each in range(first, first + 3)] for first in range(0, channels, 3)]


def channel_names(values: ValuesConfig) -> tuple[str, ...]:
    """Returns the names of the channels: colours, or numbers from 1."""
    return COLOURS if values == RGB else tuple(f"channel {each + 1}" for each in range(values.channels))


def to_8_bits(packed: NDArray[Any], values: ValuesConfig) -> NDArray[np.uint8]:
    """Rounds packed numbers of any shape to 8 bits: 0 is the lowest value of their range, 255 the highest."""
    if (values.type, values.range) == (RGB.type, RGB.range):
        return packed
    low, high = values.range
    return np.rint((packed.astype(np.float64) - low) * (255 / (high - low))).astype(np.uint8)


def as_colours(packed: NDArray[Any], values: ValuesConfig) -> NDArray[np.uint8]:
    """Returns packed pictures [..., H, W, C] as people see them, uint8 [..., H, W, 3]."""
    return to_8_bits(packed if values.channels == 3 else packed[..., threes(values.channels)[0]], values)


def described(values: ValuesConfig) -> str:
    """Says what packed numbers are: "4 channels of uint16, 0 to 4095"."""
    plural = "" if values.channels == 1 else "s"
    low, high = values.range
    return f"{values.channels} channel{plural} of {values.type}, {low:.9g} to {high:.9g}"


def shown_as(values: ValuesConfig) -> str:
    """Says how pictures show channels: "channels 1, 2 and 3 as red, green and blue"."""
    match values.channels:
        case 1:
            return "the channel as grey"
        case 2:
            return "channel 1 as red, and channel 2 as green and blue"
        case 3:
            return "channels 1, 2 and 3 as red, green and blue"
        case count:
            return f"channels 1, 2 and 3 of {count} as red, green and blue"
