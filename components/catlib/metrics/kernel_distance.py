"""Kernel distance between two sets of features: the squared maximum mean discrepancy with a cubic kernel.

On Inception features this is KID (Binkowski et al. 2018, "Demystifying MMD GANs"). Unlike the Fréchet distance its
expectation does not depend on how many images were used.

Differs: the published implementation draws its subsets without a seed, and fails where they are larger than the data.

Shape suffixes: N and M feature vectors, D features.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

SUBSETS = 100
SUBSET_SIZE = 100
SEED = 0


@dataclass(frozen=True)
class KernelDistance:
    """Mean and spread over random subsets.

    Attributes:
        mean: Estimate of the squared discrepancy; unbiased, so it may be slightly negative for equal distributions.
        std: Population standard deviation over the subsets.
        subsets: Number of subsets.
        subset_size: Feature vectors drawn from each set per subset.
    """

    mean: float
    std: float
    subsets: int
    subset_size: int


def polynomial_mmd(x_ND: ArrayLike, y_ND: ArrayLike) -> float:
    """Computes the unbiased squared MMD with the kernel k(x, y) = (x·y / D + 1)³.

    Args:
        x_ND: [N, D], N ≥ 2.
        y_ND: [N, D], the same shape.

    Returns:
        mean of k over different x, plus the same for y, minus twice the mean of k between x and y.
    """
    x_ND = np.asarray(x_ND, dtype=np.float64)
    y_ND = np.asarray(y_ND, dtype=np.float64)
    assert x_ND.shape == y_ND.shape, f"{x_ND.shape} and {y_ND.shape} differ"
    assert x_ND.ndim == 2, f"expected [N, D], got {x_ND.shape}"
    num_vectors = len(x_ND)
    assert num_vectors >= 2, "the unbiased estimate needs two vectors of each set"
    within_x = _kernel(x_ND, x_ND)
    within_y = _kernel(y_ND, y_ND)
    within = within_x.sum() - np.trace(within_x) + within_y.sum() - np.trace(within_y)
    return float(within / (num_vectors * (num_vectors - 1)) - 2 * _kernel(x_ND, y_ND).mean())


def kernel_distance(
    first_ND: ArrayLike, second_MD: ArrayLike, *, subsets: int = SUBSETS, seed: int = SEED
) -> KernelDistance:
    """Averages the squared MMD over random subsets drawn without replacement (KID when the features are Inception's).

    A subset has `SUBSET_SIZE` vectors of each set, or as many as the smaller set.

    Args:
        first_ND: [N, D] feature vectors.
        second_MD: [M, D] feature vectors.
        subsets: How many subsets.
        seed: Seed of the draws.

    Raises:
        ValueError: A set has fewer than two vectors, or the widths differ.
    """
    first_ND = np.asarray(first_ND, dtype=np.float64)
    second_MD = np.asarray(second_MD, dtype=np.float64)
    if min(len(first_ND), len(second_MD)) < 2:
        raise ValueError(f"kernel distance needs two vectors of each set, got {len(first_ND)} and {len(second_MD)}")
    if first_ND.shape[1] != second_MD.shape[1]:
        raise ValueError(f"cannot compare {first_ND.shape[1]} features with {second_MD.shape[1]}")
    size = min(SUBSET_SIZE, len(first_ND), len(second_MD))
    random = np.random.default_rng(seed)
    values = [
        polynomial_mmd(
            first_ND[random.choice(len(first_ND), size, replace=False)],
            second_MD[random.choice(len(second_MD), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return KernelDistance(mean=float(np.mean(values)), std=float(np.std(values)), subsets=subsets, subset_size=size)


def distances_without(first_ND: ArrayLike, second_MD: ArrayLike, groups_N: NDArray[np.integer]) -> NDArray[np.float64]:
    """Computes the squared MMD between all of the first set but one group and the whole second set, for every group.

    Args:
        first_ND: [N, D] feature vectors.
        second_MD: [M, D] feature vectors, M ≥ 2.
        groups_N: The group 0 … G − 1 of each vector of the first set; at least two vectors are outside each group.

    Returns:
        [G].
    """
    first_ND = np.asarray(first_ND, dtype=np.float64)
    second_MD = np.asarray(second_MD, dtype=np.float64)
    within_NN = _kernel(first_ND, first_ND)
    np.fill_diagonal(within_NN, 0)
    between_N = _kernel(first_ND, second_MD).mean(axis=1)
    within_MM = _kernel(second_MD, second_MD)
    count = len(second_MD)
    within_second = (within_MM.sum() - np.trace(within_MM)) / (count * (count - 1))
    distances = []
    for group in range(int(groups_N.max()) + 1):
        rest = groups_N != group
        pairs = rest.sum() * (rest.sum() - 1)
        distances.append(within_NN[np.ix_(rest, rest)].sum() / pairs + within_second - 2 * between_N[rest].mean())
    return np.array(distances)


def _kernel(x_ND: NDArray[np.float64], y_MD: NDArray[np.float64]) -> NDArray[np.float64]:
    return (x_ND @ y_MD.T / x_ND.shape[1] + 1.0) ** 3
