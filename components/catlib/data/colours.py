"""Colours for label maps."""

from __future__ import annotations

import colorsys

import numpy as np
from numpy.typing import NDArray

GOLDEN_RATIO = (5**0.5 - 1) / 2
SATURATION = 0.65
BRIGHTNESS = (0.95, 0.6, 0.8, 0.45)


def label_colours(num_labels: int) -> NDArray[np.uint8]:
    """Returns an RGB colour for each label, uint8 [num_labels, 3]; labels with neighbouring numbers look different.

    Hues advance around the colour circle in steps of the golden ratio. Brightness cycles through four values.
    """
    colours = [
        colorsys.hsv_to_rgb(label * GOLDEN_RATIO % 1, SATURATION, BRIGHTNESS[label % 4]) for label in range(num_labels)
    ]
    return np.round(255 * np.array(colours)).astype(np.uint8)
