"""Tells from facts about many pictures what a stranger would ask about them: mislabelled channels, and small sets.

Nothing here is certain. Every sentence says "looks like" and gives its evidence.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.catlib.data.decoding import ALPHA, SCALED
from components.catlib.data.packed import ImageRole, Pairing, SplitName

MOST_LEVELS = 32
"""Pictures of no more grey values look like maps of classes."""

FEWEST = 8
"""Fewer pictures say nothing about the others."""

ALMOST_ALL = 0.9
"""Share of pictures that stands for all of a split; the rest may be exceptions."""

HALF_TRANSPARENT = 0.5
LEVELS_OF_DATA = 64
"""Transparency is 0 or 1 at most pixels; a fourth channel with more pixels and values between looks like data."""

LEAST_TINT = 4.0
"""Difference between red and blue, in grey levels, below which an order of channels shows nowhere."""

LEAST_SIGMAS = 6.0
"""Means of two splits that differ by fewer standard errors may be those of one population."""

OPPOSITE, ALIKE = -0.7, 0.5
"""Correlations of red minus blue, and of green, from which source and target differ by the order of channels."""

SMALL_TRAINING: Mapping[Pairing, tuple[int, str]] = {
    "paired": (400, "facades, the smallest set with published pix2pix results, has 400 pairs"),
    "unpaired": (900, "apple2orange and summer2winter, the smallest sets with published results, have about 1000 each"),
    "labels": (2900, "Cityscapes, the smallest set with published SPADE results, has 2975"),
}
"""Number of training images of a domain below which a set is small, and the reason."""

SMALL_HELD_OUT = 100
"""Below this many held-out images, scores depend on the choice: KID compares random subsets, whose spread falls with
the root of their number; the smallest test sets with published FID here have 106 (facades) and 120 (horse2zebra)."""

FRECHET_DIMENSIONS = 2048
"""Dimensions of the features of FID, whose covariance is singular with no more images than that."""

_VALUES = np.arange(256)


@dataclass(frozen=True)
class Marks:
    """What is noted about the channels of one picture.

    Attributes:
        grey: Whether red, green and blue are equal everywhere.
        red_over_blue: Mean of red minus mean of blue, in grey levels.
        some: Its pixels on a grid of 8×8 places, uint8 [8, 8, 3].
        levels: Its grey values, if it is grey and they are few; else None.
        alpha: Share of pixels that are neither transparent nor opaque, and number of values; None without transparency.
    """

    grey: bool
    red_over_blue: float
    some: NDArray[np.uint8]
    levels: frozenset[int] | None
    alpha: tuple[float, int] | None

    @classmethod
    def of(cls, packed: NDArray[np.uint8], histogram: NDArray[np.int64], original: Image.Image) -> Marks:
        """Looks at a picture.

        Args:
            packed: The picture as it is packed, uint8 [H, W, 3].
            histogram: Its pixels per value of each channel, [3, 256].
            original: The picture as it was decoded.
        """
        red, green, blue = histogram
        grey = bool((red == green).all() and (green == blue).all()) and _is_grey(packed)
        red_over_blue = float((red - blue) @ _VALUES) / (packed.shape[0] * packed.shape[1])
        colours = original.getcolors(MOST_LEVELS) if grey and SCALED not in original.info else None
        levels = frozenset(colour[0] for _, colour in colours) if colours else None  # type: ignore[index]  # mode RGB
        rows, columns = ([side * place // 9 for place in range(1, 9)] for side in packed.shape[:2])
        some = packed[rows][:, columns]
        return cls(grey, red_over_blue, some, levels, _alpha(original.info.get(ALPHA)))


def _is_grey(pixels: NDArray[np.uint8]) -> bool:
    return bool((pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all())


def _alpha(histogram: list[int] | None) -> tuple[float, int] | None:
    if histogram is None or histogram[255] == sum(histogram):
        return None
    return sum(histogram[1:255]) / sum(histogram), int(np.count_nonzero(histogram))


@dataclass(frozen=True)
class Pictures:
    """All pictures of one role in one split: their marks by row, and the sum of their histograms, int64 [3, 256]."""

    marks: Sequence[Marks]
    histogram: NDArray[np.int64]


def about_channels(pictures: Mapping[tuple[SplitName, ImageRole], Pictures], *, paired: bool) -> list[str]:
    """Returns sentences about channels that look mislabelled.

    Args:
        pictures: Split and role -> the pictures, without label maps.
        paired: Whether equal rows of source and target belong together.
    """
    found = []
    roles: tuple[ImageRole, ...] = ("source", "target")
    for role in roles:
        train, test = pictures.get(("train", role)), pictures.get(("test", role))
        if train is not None:
            found += _about_alpha(train, role) + _about_levels(train, role)
        if train is not None and test is not None and min(len(train.marks), len(test.marks)) >= FEWEST:
            found += _about_splits(train, test, role)
    source, target = pictures.get(("train", "source")), pictures.get(("train", "target"))
    if paired and source is not None and target is not None and len(source.marks) >= FEWEST:
        found += _about_domains(source, target)
    return found


def _about_alpha(pictures: Pictures, role: ImageRole) -> list[str]:
    alphas = [mark.alpha for mark in pictures.marks if mark.alpha is not None]
    if len(alphas) < ALMOST_ALL * len(pictures.marks):
        return []
    share, levels = np.mean([share for share, _ in alphas]), max(levels for _, levels in alphas)
    if share < HALF_TRANSPARENT or levels < LEVELS_OF_DATA:
        return []
    return [
        f"the fourth channel of the {role} pictures looks like data rather than transparency: {share:.0%} of its "
        f"pixels are neither transparent nor opaque, with {levels} values; it was blended with white, so remove it "
        "from the files if it is no transparency"
    ]


def _about_levels(pictures: Pictures, role: ImageRole) -> list[str]:
    levels: set[int] = set()
    for mark in pictures.marks:
        if mark.levels is None:
            return []
        levels |= mark.levels
    if not 2 <= len(levels) <= MOST_LEVELS:
        return []
    some = ", ".join(map(str, sorted(levels)[:6])) + (", …" if len(levels) > 6 else "")
    advice = (
        f"if the values are classes, number them 0 … {len(levels) - 1} and set dataset.num_labels"
        if role == "source"
        else "scores of pictures, such as FID, mean little for them"
    )
    return [
        f"the {role} pictures look like maps of classes: all are grey, with {len(levels)} values ({some}); {advice}"
    ]


def _about_splits(train: Pictures, test: Pictures, role: ImageRole) -> list[str]:
    """Compares the splits of one role."""
    found = []
    grey = [sum(mark.grey for mark in pictures.marks) / len(pictures.marks) for pictures in (train, test)]
    if max(grey) >= ALMOST_ALL and min(grey) <= 1 - ALMOST_ALL:
        found.append(
            f"the {role} pictures look like grey ones in one split alone: {grey[0]:.0%} of those for training and "
            f"{grey[1]:.0%} of the held-out ones are grey; were they saved or converted differently?"
        )
    transparent = [
        sum(mark.alpha is not None for mark in pictures.marks) / len(pictures.marks) for pictures in (train, test)
    ]
    if max(transparent) >= ALMOST_ALL and min(transparent) <= 1 - ALMOST_ALL:
        found.append(
            f"the {role} pictures look as if one split alone had transparency: {transparent[0]:.0%} of those for "
            f"training and {transparent[1]:.0%} of the held-out ones; transparent pixels became white"
        )
    tints = [np.array([mark.red_over_blue for mark in pictures.marks]) for pictures in (train, test)]
    means = [float(tint.mean()) for tint in tints]
    error = np.sqrt(sum(tint.var() / len(tint) for tint in tints))
    opposite = means[0] * means[1] < 0 and min(map(abs, means)) >= LEAST_TINT
    as_they_are, swapped = _distance(train, test, (0, 1, 2)), _distance(train, test, (2, 1, 0))
    if opposite and abs(means[0] - means[1]) > LEAST_SIGMAS * error and swapped < as_they_are / 2:
        found.append(
            f"red and blue of the {role} pictures look swapped in one split: red exceeds blue by {means[0]:.0f} grey "
            f"levels in training and by {means[1]:.0f} in the held-out ones, and swapping them brings the histograms "
            f"from {as_they_are:.1f} to {swapped:.1f} levels of each other; was one written in the order BGR (OpenCV)?"
        )
    return found


def _distance(one: Pictures, other: Pictures, order: tuple[int, int, int]) -> float:
    """Returns the mean distance (earth mover's, in grey levels) of the channels, those of the other one reordered."""
    shares = [each.histogram / each.histogram.sum(axis=1, keepdims=True) for each in (one, other)]
    return float(np.abs(np.cumsum(shares[0] - shares[1][list(order)], axis=1)).sum(axis=1).mean())


def _about_domains(source: Pictures, target: Pictures) -> list[str]:
    """Compares partners: red of one with blue of the other."""
    pixels = [np.stack([mark.some for mark in each.marks]).astype(np.float64) for each in (source, target)]
    tints, greens = [each[..., 0] - each[..., 2] for each in pixels], [each[..., 1] for each in pixels]
    if min(tint.std() for tint in tints) < LEAST_TINT or min(green.std() for green in greens) < LEAST_TINT:
        return []
    tint, green = (float(np.corrcoef(pair[0].ravel(), pair[1].ravel())[0, 1]) for pair in (tints, greens))
    if tint > OPPOSITE or green < ALIKE:
        return []
    return [
        f"red and blue of source and target look swapped: red minus blue of partners has the correlation {tint:.2f}, "
        f"but green {green:.2f}; was one domain written in the order BGR (OpenCV)?"
    ]


def about_numbers(counts: Mapping[tuple[SplitName, ImageRole], int], pairing: Pairing) -> list[str]:
    """Returns sentences about sets that are small for what they are used for.

    Args:
        counts: Split and role -> number of images.
        pairing: How training uses them.
    """
    found = []
    least, reason = SMALL_TRAINING[pairing]
    what: dict[Pairing, str] = {"paired": "pairs", "unpaired": "images of a domain", "labels": "label maps"}
    training = min(counts.get(("train", "source"), 0), counts.get(("train", "target"), 0))
    if 0 < training < least:
        found.append(
            f"{training} {what[pairing]} for training are few, below {least} ({reason}); expect the networks to learn "
            "them by heart, and watch the scores of held-out images"
        )
    held_out = counts.get(("test", "target"), 0)
    if 0 < held_out < SMALL_HELD_OUT:
        found.append(
            f"{held_out} held-out target images are few, below {SMALL_HELD_OUT}: FID, KID and other scores vary much "
            "with the choice of the images; hold out more (dataset.test_fraction, or the folder test)"
        )
    if 0 < held_out <= FRECHET_DIMENSIONS:
        found.append(
            f"FID of {held_out} images comes out too high, because a covariance of {FRECHET_DIMENSIONS} dimensions "
            "needs more; compare it only with FIDs of as many images, or use KID, which has no such bias"
        )
    return found
