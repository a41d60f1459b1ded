"""Finds held-out images that also occur in training, by a difference hash of their thumbnails.

A thumbnail is 17×16 grey values. Its hash has one bit per pair of neighbours in a row, set if the right one is clearly
brighter: 256 bits that survive resizing, recompression and small changes of colour. Two images count as the same if
their hashes differ in few bits *and* their thumbnails look alike. The second condition is needed for flat images (a
sea, a white page), which all have nearly the same hash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = (17, 16)
"""Width and height of a thumbnail in pixels: 16 differences in each of 16 rows."""

CLEARLY = 2
"""A neighbour must be brighter by this many grey levels, so that rounding does not set bits."""

MOST_BITS = 20
"""Hashes of the same image differ in at most this many of 256 bits.

Copies that were resized and saved as JPEG (quality 75) differ in up to 18 bits, other photographs in about 90.
"""

MOST_DIFFERENCE = 4.0
"""Thumbnails of the same image differ by at most this mean of grey levels; copies as above differ by up to 1."""

_COMPARED_AT_ONCE = 500_000


def thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """Returns the thumbnail of a picture of any size, uint8 [16, 17]."""
    return np.asarray(picture.convert("L").resize(THUMBNAIL, Image.Resampling.BOX))


def difference_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Computes the hashes of thumbnails, uint8 [N, 16, 17], as uint64 [N, 4]."""
    grey = thumbnails.astype(np.int16)
    bits = grey[:, :, 1:] - grey[:, :, :-1] >= CLEARLY
    return np.packbits(bits.reshape(len(bits), -1), axis=1).view(np.uint64)


def find_duplicates(held_out: NDArray[np.uint8], training: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Finds the held-out images that have a double among the training images.

    Args:
        held_out: Thumbnails, uint8 [M, 16, 17].
        training: Thumbnails, uint8 [N, 16, 17].

    Returns:
        Pairs (row of the held-out image, row of the most similar training image), ordered by the first; at most M.
    """
    if not len(training):
        return []
    training_hashes = difference_hashes(training)
    found = []
    step = max(1, _COMPARED_AT_ONCE // len(training))
    for start in range(0, len(held_out), step):
        some = held_out[start : start + step]
        bits = np.bitwise_count(difference_hashes(some)[:, None] ^ training_hashes).sum(axis=2, dtype=np.int16)
        for row, of_row in enumerate(bits, start):
            candidates = np.flatnonzero(of_row <= MOST_BITS)
            if len(candidates):
                differences = np.abs(training[candidates].astype(np.int16) - held_out[row]).mean(axis=(1, 2))
                if differences.min() <= MOST_DIFFERENCE:
                    found.append((row, int(candidates[differences.argmin()])))
    return found
