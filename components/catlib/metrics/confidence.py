"""How much a number measured on a set of images can be trusted: 95 % bootstrap intervals over the images.

They answer how much the number varies over another sample of the same size. They do not cover what all
numbers of a comparison share: a Fréchet distance of few images is too large, and the real images are a choice.

The mean of a score per image is resampled directly (Efron 1979), and so are mIoU and comparisons of means with real
images. Distances between sets are not:
an image that is drawn twice has no variance and is its own neighbour, so resampled sets lie much further from the real
images than the set that they are drawn from (118 images with 2048 features at 151 ± 12 would seem to lie at 188 ± 17).
Their *pseudo-values* are resampled instead (Tukey 1958): what each image, or each group of images where there are many,
adds to the number, found by leaving it out. The interval is put around the number itself.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from components.catlib.metrics import frechet, kernel_distance
from components.catlib.metrics.frechet import Gaussian

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0

MOST_GROUPS = 128
"""Above this number, images are left out in groups, which bounds the time."""

FEWEST_IMAGES = 3
"""With fewer images, none can be left out."""

Interval = tuple[float, float]


def bootstrap_interval(values: NDArray[np.float64]) -> Interval:
    """Computes the 95 % percentile bootstrap interval of a mean (Efron 1979).

    N images are drawn with replacement, 1000 times; the interval holds the middle 95 % of the means. The draws are
    seeded: two generators that are judged on the same images are resampled alike.

    Args:
        values: One number per image [N].

    Returns:
        Lower and upper end.
    """
    return _middle(_draws(len(values)) @ values / len(values))


def frechet_interval(features_ND: NDArray[np.floating], real: Gaussian, value: float) -> Interval | None:
    """Computes the interval of a Fréchet distance; None for fewer than `FEWEST_IMAGES`.

    Args:
        features_ND: Features of the generated images.
        real: Distribution of the real images; it is taken as it is.
        value: The distance.
    """
    if len(features_ND) < FEWEST_IMAGES:
        return None
    low, high = interval_around(value, frechet.distances_without(features_ND, real, groups(len(features_ND))))
    return max(0.0, low), high


def kernel_interval(generated_ND: NDArray[np.floating], real_MD: NDArray[np.floating], value: float) -> Interval | None:
    """Computes the interval of a kernel distance; None for fewer than `FEWEST_IMAGES`.

    Args:
        generated_ND: Features of the generated images.
        real_MD: Features of the real images; they are taken as they are.
        value: The distance, a mean over random subsets; the interval is as wide as that of the distance of all images.
    """
    if len(generated_ND) < FEWEST_IMAGES:
        return None
    without_G = kernel_distance.distances_without(generated_ND, real_MD, groups(len(generated_ND)))
    return interval_around(value, without_G)


def confusions_interval(confusions_NCC: NDArray[np.int64], measure: Callable[[NDArray[np.int64]], float]) -> Interval:
    """Computes the 95 % percentile bootstrap interval of a score of summed confusions, such as mIoU.

    Args:
        confusions_NCC: Pixels of every image by true and seen class, at least one in all.
        measure: Takes a sum over images [C, C] that counts at least one pixel; returns the score.
    """
    count, classes, _ = confusions_NCC.shape
    resampled = (_draws(count) @ confusions_NCC.reshape(count, -1)).reshape(-1, classes, classes).astype(np.int64)
    return _middle(np.array([measure(confusion) for confusion in resampled if confusion.any()]))


def means_interval(values_NK: NDArray[np.float64], score: Callable[[NDArray[np.float64]], NDArray]) -> Interval:
    """Computes the 95 % percentile bootstrap interval of a score of means over images.

    Args:
        values_NK: Numbers of every image.
        score: Takes means [R, K], one row per resample; returns their scores [R].
    """
    return _middle(score(_draws(len(values_NK)) @ values_NK / len(values_NK)))


def interval_around(value: float, without_G: NDArray[np.float64]) -> Interval:
    """Bootstraps the pseudo-values of a number and puts the interval around the number.

    With G groups the pseudo-value of one is G · value − (G − 1) · (the number without it). For a mean those are the
    images' own values, and the interval is that of `bootstrap_interval`.

    Args:
        value: The number.
        without_G: The number when one of G groups of images is left out.
    """
    count = len(without_G)
    low, high = _middle(_draws(count) @ ((count - 1) * (without_G.mean() - without_G)) / count)
    return value + low, value + high


def groups(count: int) -> NDArray[np.int64]:
    """Deals images into groups that are left out together: each its own, or at random into `MOST_GROUPS`."""
    if count <= MOST_GROUPS:
        return np.arange(count)
    return np.random.default_rng(SEED).permutation(np.arange(count) % MOST_GROUPS)


def _draws(count: int) -> NDArray[np.float64]:
    """Counts how often each image is drawn in each resample [RESAMPLES, count]."""
    random = np.random.default_rng(SEED)
    drawn = [np.bincount(random.integers(0, count, count), minlength=count) for _ in range(RESAMPLES)]
    return np.array(drawn, dtype=np.float64)


def _middle(values: NDArray[np.float64]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)
