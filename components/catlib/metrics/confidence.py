"""How far the mean over a set of images may be trusted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 1000
LEVEL = 0.95
SEED = 0


def bootstrap_interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Computes the 95 % percentile bootstrap interval of a mean (Efron 1979).

    The images are drawn anew, as many as there are and with replacement, 1000 times; the interval holds the middle 95 %
    of the means. The draws are seeded: two generators that are judged on the same images are resampled alike.

    Args:
        values: One number per image [N].

    Returns:
        Lower and upper end.
    """
    random = np.random.default_rng(SEED)
    means = [values[random.integers(0, len(values), len(values))].mean() for _ in range(RESAMPLES)]
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
