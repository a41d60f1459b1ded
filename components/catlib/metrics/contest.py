"""Which variation of a sweep is better, from students of the same seeds that are scored on the same images.

A difference is real only if other seeds and other images would show it again, so both count as drawn by chance. The
error of a mean difference is that of the *pigeonhole bootstrap* (Owen 2007, "The pigeonhole bootstrap", Annals of
Applied Statistics 1), which draws seeds and images with replacement, each on its own. Nothing is drawn here, because
the bootstrap's variance of a mean is known exactly. With R the mean of every seed, C the mean of every image, E what
both leave over, and variances that divide by the count,

    variance = var(R) / S + var(C) / N + var(E) / (S N)

so equal scores always give equal intervals. Every part gets the factor of its small sample: S / (S - 1) for seeds,
N / (N - 1) for images, both for what is left over. The variance is then right but for E, which counts three times
(Owen's theorem: never too small), and for N = 1 it is that of the paired t test.

Interval and p value are Student's with S - 1 degrees of freedom: the spread of seeds is known from S numbers only. The
usual percentiles of a bootstrap know nothing of that. With three to five seeds they are too narrow: for three, the
factor of the error is 1.96 in place of 4.30.

Two questions are two families of comparisons. Which variation wins: all pairs (`contest`). What is better than one
reference: every other variation with it (`against`); these are fewer, so smaller differences are found. In each
family and metric, Holm's step-down correction (1979) keeps the chance of any false difference at 5 %. The intervals
follow the same steps: that of the k-th smallest p value among m has the level 1 - 0.05 / (m - k + 1), up to the first
that is not significant, whose level holds for the rest. So an interval excludes 0 exactly where Holm's correction finds
a difference. Each covers its own difference with at least 95 %; they do not promise to cover all of them at once.

Several metrics are several families: nothing here corrects for looking at many.

Shape suffixes: S seeds, N images; N is 1 for scores of whole sets, such as a Fréchet distance.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from components.catlib.metrics.confidence import LEVEL, Interval

IMAGE_SCORES_FILE = "image_scores.json"
"""File of an evaluation with the scores of every image, by generator ("student", "teacher") and metric."""

ROUNDING = 1e-12
"""Differences that vary by less, as a share of the largest, are equal."""

FEWEST_SEEDS = 2
"""With fewer seeds, the spread of a variation is unknown: there is no interval, and nobody wins."""


@dataclass(frozen=True)
class Difference:
    """How much one variation scores above another.

    Attributes:
        first: Name of a variation.
        second: Name of another one.
        mean: Mean score of the first minus that of the second.
        error: Standard error of the mean over seeds and images; None with fewer than `FEWEST_SEEDS`, like all below.
        interval: Corrected interval of the mean.
        p: Corrected p value of no difference.
        effect: Hedges' g of the seeds' differences; None also for two seeds or for differences that are all equal.
    """

    first: str
    second: str
    mean: float
    error: float | None = None
    interval: Interval | None = None
    p: float | None = None
    effect: float | None = None

    @property
    def is_real(self) -> bool:
        """Whether the interval excludes 0."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    def turned(self) -> Difference:
        """Returns the difference of the second to the first."""
        interval = self.interval and (-self.interval[1], -self.interval[0])
        effect = None if self.effect is None else -self.effect
        return Difference(self.second, self.first, -self.mean, self.error, interval, self.p, effect)


@dataclass(frozen=True)
class Contest:
    """All variations in one metric.

    Attributes:
        best: The variation with the best mean.
        winner: The best, if its interval to every other variation excludes 0; else None.
        differences: One per pair, in the order of the variations.
        num_seeds: Number of seeds that the comparison rests on.
    """

    best: str
    winner: str | None
    differences: tuple[Difference, ...]
    num_seeds: int

    def between(self, first: str, second: str) -> Difference:
        """Returns the difference of two variations, in this order."""
        for difference in self.differences:
            if (difference.first, difference.second) == (first, second):
                return difference
            if (difference.first, difference.second) == (second, first):
                return difference.turned()
        raise KeyError((first, second))


def contest(scores: Mapping[str, NDArray[np.float64]], *, better: Literal["lower", "higher"]) -> Contest:
    """Compares variations in one metric.

    Args:
        scores: Of at least two variations, by name, their scores [S, N], all finite; row and column mean the same seed
            and the same image everywhere.
        better: Which direction is better.
    """
    names, num_seeds = list(scores), _num_seeds(scores)
    means = {name: float(values.mean()) for name, values in scores.items()}
    best = (min if better == "lower" else max)(names, key=means.__getitem__)
    made = Contest(best, None, tuple(_differences(list(itertools.combinations(names, 2)), scores)), num_seeds)
    wins = all(made.between(best, other).is_real for other in names if other != best)
    return dataclasses.replace(made, winner=best if wins else None)


def against(reference: str, scores: Mapping[str, NDArray[np.float64]]) -> dict[str, Difference]:
    """Compares every other variation with one of them, in one metric.

    Args:
        reference: Name of the variation that the others are compared with.
        scores: As in `contest`.

    Returns:
        What each other variation scores above the reference, by its name.
    """
    _num_seeds(scores)
    pairs = [(name, reference) for name in scores if name != reference]
    return {difference.first: difference for difference in _differences(pairs, scores)}


def _num_seeds(scores: Mapping[str, NDArray[np.float64]]) -> int:
    shapes = {values.shape for values in scores.values()}
    assert len(scores) > 1 and len(shapes) == 1, f"{len(scores)} variations with scores of shapes {shapes}"
    ((num_seeds, _),) = shapes
    return num_seeds


def _differences(pairs: Sequence[tuple[str, str]], scores: Mapping[str, NDArray[np.float64]]) -> list[Difference]:
    """Compares the pairs of a family; without intervals where there are too few seeds."""
    deltas = [scores[first] - scores[second] for first, second in pairs]
    means = [float(delta_SN.mean()) for delta_SN in deltas]
    freedom = len(deltas[0]) - 1
    if freedom + 1 < FEWEST_SEEDS:
        return [Difference(*pair, mean=mean) for pair, mean in zip(pairs, means, strict=True)]
    errors = [paired_error(delta_SN) for delta_SN in deltas]
    p_values = [two_sided(mean, error, freedom) for mean, error in zip(means, errors, strict=True)]
    halves = [quantile(level, freedom) for level in stepped_levels(p_values)]
    corrected = holm(p_values)
    return [
        Difference(
            *pair,
            mean=means[i],
            error=errors[i],
            interval=(means[i] - halves[i] * errors[i], means[i] + halves[i] * errors[i]),
            p=corrected[i],
            effect=hedges_g(deltas[i].mean(axis=1)),
        )
        for i, pair in enumerate(pairs)
    ]


def paired_error(delta_SN: NDArray[np.float64]) -> float:
    """Computes the standard error of a mean over seeds and images by the pigeonhole bootstrap (Owen 2007).

    Args:
        delta_SN: Differences of two variations, at least two seeds.
    """
    num_seeds, num_images = delta_SN.shape
    seeds_S, images_N = delta_SN.mean(axis=1), delta_SN.mean(axis=0)
    left_SN = delta_SN - seeds_S[:, None] - images_N + delta_SN.mean()
    of_seeds = 1 / (num_seeds - 1)
    of_images = 1 / (num_images - 1) if num_images > 1 else 0.0
    return math.sqrt(seeds_S.var() * of_seeds + images_N.var() * of_images + left_SN.var() * of_seeds * of_images)


def two_sided(mean: float, error: float, freedom: int) -> float:
    """Computes the p value of Student's t for a mean of 0; without any error it is 0, or 1 for a mean of 0."""
    from scipy.special import stdtr  # pages without a comparison need not wait for it

    if error == 0:
        return 1.0 if mean == 0 else 0.0
    return float(2 * stdtr(freedom, -abs(mean) / error))


def quantile(level: float, freedom: int) -> float:
    """Returns how many errors an interval of a level reaches to either side (Student's t)."""
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + level) / 2))


def holm(p_values: Sequence[float]) -> list[float]:
    """Corrects the p values of a family (Holm 1979), in their order.

    The smallest of m is multiplied by m, the next by m - 1, …; none becomes smaller than one before it, or larger than
    1. For example 0.01, 0.04, 0.03 become 0.03, 0.06, 0.06.
    """
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for step, number in enumerate(_by_size(p_values)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[number]))
        corrected[number] = largest
    return corrected


def stepped_levels(p_values: Sequence[float]) -> list[float]:
    """Returns the level of each interval of a family: those that exclude 0 are the differences that `holm` finds."""
    tests, stopped = len(p_values), False
    levels = [0.0] * len(p_values)
    for number in _by_size(p_values):
        levels[number] = 1 - (1 - LEVEL) / tests
        stopped = stopped or p_values[number] * tests >= 1 - LEVEL
        if not stopped:
            tests -= 1
    return levels


def _by_size(p_values: Sequence[float]) -> list[int]:
    return sorted(range(len(p_values)), key=p_values.__getitem__)


def hedges_g(delta_S: NDArray[np.float64]) -> float | None:
    """Computes Hedges' g of paired differences (1981): their mean over their standard deviation, without its bias.

    The factor against the bias is the exact one; for three differences it is 0.564, for five 0.798.

    Args:
        delta_S: The differences, one per seed.

    Returns:
        g; None for fewer than three differences, or where all are equal.
    """
    freedom = len(delta_S) - 1
    spread = float(delta_S.std(ddof=1)) if freedom > 1 else 0.0
    if spread <= ROUNDING * float(np.abs(delta_S).max()):
        return None
    unbiased = math.exp(math.lgamma(freedom / 2) - math.lgamma((freedom - 1) / 2)) / math.sqrt(freedom / 2)
    return unbiased * float(delta_S.mean()) / spread
