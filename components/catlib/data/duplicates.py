"""Finds held-out images that occur in training too, by a difference hash of their thumbnails.

A thumbnail is 17×16 grey values; its hash says of every pair of neighbours in a row whether the right one is clearly
brighter: 256 bits that survive resizing, recompression and small changes of colour. Images whose hashes differ in few
bits *and* whose thumbnails look alike are taken for the same. The second condition is for flat images (a sea, a white
page), which all have nearly the same hash.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

THUMBNAIL = (17, 16)
"""Width and height: 16 differences in each of 16 rows."""

CLEARLY = 2
"""Grey levels by which a neighbour must be brighter, so that rounding does not decide."""

MOST_BITS = 20
"""Of 256: copies that were resized and saved as JPEG (quality 75) differ in up to 18, other photographs in about 90."""

MOST_DIFFERENCE = 4.0
"""Mean difference of the thumbnails in grey levels; such copies differ by up to 1."""

_COMPARED_AT_ONCE = 500_000


def thumbnail(picture: Image.Image) -> NDArray[np.uint8]:
    """Returns the thumbnail of a picture of any size, uint8 [16, 17]."""
    return np.asarray(picture.convert("L").resize(THUMBNAIL, Image.Resampling.BOX))


def difference_hashes(thumbnails: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Computes the hashes of thumbnails [N, 16, 17]: uint64 [N, 4]."""
    grey = thumbnails.astype(np.int16)
    bits = grey[:, :, 1:] - grey[:, :, :-1] >= CLEARLY
    return np.packbits(bits.reshape(len(bits), -1), axis=1).view(np.uint64)


def find_duplicates(held_out: NDArray[np.uint8], training: NDArray[np.uint8]) -> list[tuple[int, int]]:
    """Finds the held-out images that have a double among the training images.

    Args:
        held_out: Thumbnails [M, 16, 17].
        training: Thumbnails [N, 16, 17].

    Returns:
        (row of the held-out image, row of the training image that is most like it), in order; M rows at most.
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
