"""Fréchet distance between two Gaussians, without a matrix square root.

For Gaussians with means m₁, m₂ and covariances C₁, C₂

    d² = |m₁ − m₂|² + tr C₁ + tr C₂ − 2 tr (C₁ C₂)^½

(Dowson and Landau 1982; Heusel et al. 2017 use it on Inception features and call it FID). Write each covariance as a
product of a tall factor with itself, C = F Fᵀ. The eigenvalues of C₁ C₂ are those of (F₁ᵀ F₂)(F₁ᵀ F₂)ᵀ, hence

    tr (C₁ C₂)^½ = sum of the singular values of F₁ᵀ F₂ .

That is real, never negative, exact for singular covariances, and small: 120 images with 2048 features give a 120 × 120
matrix where the textbook form takes the square root of a 2048 × 2048 one. Four images with 3 features, for example,
have a factor of 3 × 3, two images one of 3 × 2.

Differs: the published implementation calls `scipy.linalg.sqrtm`, whose result may be complex or slightly negative,
which cannot take one-dimensional features, and whose `disp` argument is being removed from scipy.

Shape suffixes: N images, D features, R columns of a factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

SYMMETRY_TOLERANCE = 1e-5
"""Asymmetry and negative eigenvalues up to this share of the largest are rounding of a file written in float32."""

CHOLESKY_TOLERANCE = 1e-12
"""Largest relative error of a Cholesky factor that is used."""


@dataclass(frozen=True)
class Gaussian:
    """A normal distribution of features.

    Attributes:
        mean: Mean [D], float64.
        factor: Factor [D, R] of the covariance, which is `factor @ factor.T`, float64.
    """

    mean: Array
    factor: Array

    @classmethod
    def from_samples(cls, features_ND: ArrayLike) -> Gaussian:
        """Fits mean and unbiased covariance (divisor N − 1) to feature vectors; the covariance itself is never formed.

        Args:
            features_ND: [N, D] with N ≥ 2, or [N] for one-dimensional features.

        Raises:
            ValueError: Fewer than two vectors, or values that are not finite.
        """
        x_ND = np.asarray(features_ND, dtype=np.float64)
        x_ND = x_ND[:, None] if x_ND.ndim == 1 else x_ND
        if x_ND.ndim != 2 or len(x_ND) < 2:
            raise ValueError(f"features must be [N, D] with at least two rows, got shape {x_ND.shape}")
        _check_finite(x_ND, "features")
        mean_D = x_ND.mean(axis=0)
        factor_DN = (x_ND - mean_D).T / np.sqrt(len(x_ND) - 1)
        if factor_DN.shape[1] > factor_DN.shape[0]:
            # A factor may be rotated from the right: QR brings it to D columns.
            factor_DN = np.asarray(np.linalg.qr(factor_DN.T, mode="r")).T
        return cls(mean_D, factor_DN)

    @classmethod
    def from_moments(cls, mean: ArrayLike, covariance: ArrayLike) -> Gaussian:
        """Takes mean and covariance as statistics files hold them.

        Args:
            mean: [D], or a number.
            covariance: [D, D] symmetric positive semi-definite, or a number. It may be singular.

        Raises:
            ValueError: Shapes do not match, values are not finite, or the covariance is not symmetric or has a negative
                eigenvalue, beyond rounding.
        """
        mean_D = np.atleast_1d(np.asarray(mean, dtype=np.float64))
        covariance_DD = np.atleast_2d(np.asarray(covariance, dtype=np.float64))
        if mean_D.ndim != 1 or covariance_DD.shape != (len(mean_D), len(mean_D)):
            raise ValueError(f"mean {mean_D.shape} and covariance {covariance_DD.shape} do not belong together")
        _check_finite(mean_D, "mean")
        _check_finite(covariance_DD, "covariance")
        return cls(mean_D, _factor(covariance_DD))

    @property
    def total_variance(self) -> float:
        """The trace of the covariance."""
        return float(np.vdot(self.factor, self.factor))


def frechet_distance(first: Gaussian, second: Gaussian) -> float:
    """Computes the squared Fréchet distance d² of the module's first formula, the number known as FID.

    Args:
        first: One distribution.
        second: The other one, with the same number of features.

    Returns:
        A finite number ≥ 0; exactly 0 when float64 cannot distinguish it from 0.

    Raises:
        ValueError: The distributions have different numbers of features.
    """
    if len(first.mean) != len(second.mean):
        raise ValueError(f"cannot compare {len(first.mean)} features with {len(second.mean)}")
    variances = first.total_variance + second.total_variance
    overlap = float(np.linalg.svd(first.factor.T @ second.factor, compute_uv=False).sum())
    difference_D = first.mean - second.mean
    distance = float(difference_D @ difference_D) + variances - 2 * overlap
    rounding = np.finfo(np.float64).eps * len(first.mean) * variances
    return distance if distance > rounding else 0.0


def distances_without(features_ND: ArrayLike, second: Gaussian, groups_N: NDArray[np.integer]) -> Array:
    """Computes the distance of all feature vectors but one group from a Gaussian, for every group.

    A distance needs only the products of the vectors with each other and with the factor of the other covariance. Those
    are computed once; every group then needs the singular values of a matrix of N rows.

    Args:
        features_ND: [N, D].
        second: A Gaussian of D features.
        groups_N: The group 0 … G − 1 of each vector; at least two vectors are outside each group.

    Returns:
        [G], for each group the `frechet_distance` of the rest.
    """
    x_ND = np.asarray(features_ND, dtype=np.float64)
    x_ND = x_ND - second.mean
    overlaps_NR = x_ND @ second.factor
    if overlaps_NR.shape[1] > len(x_ND):
        overlaps_NR = np.asarray(np.linalg.qr(overlaps_NR.T, mode="r")).T
    lengths_N = np.einsum("nd,nd->n", x_ND, x_ND)
    distances = []
    for group in range(int(groups_N.max()) + 1):
        rest = groups_N != group
        count = int(rest.sum())
        mean_D = x_ND[rest].mean(axis=0)
        length = float(mean_D @ mean_D)
        variance = (float(lengths_N[rest].sum()) - count * length) / (count - 1)
        rows_NR = overlaps_NR[rest]
        overlap = float(np.linalg.svd(rows_NR - rows_NR.mean(axis=0), compute_uv=False).sum()) / np.sqrt(count - 1)
        distances.append(max(0.0, length + variance + second.total_variance - 2 * overlap))
    return np.array(distances)


def _factor(covariance_DD: Array) -> Array:
    """Finds F with F Fᵀ = C, of as few columns as C has rank.

    Cholesky with pivoting stops at the rank: D·R² operations. A covariance that was stored with few digits is not quite
    positive semi-definite any more; there the eigenvalues are computed and the slightly negative ones left out.
    """
    import scipy.linalg  # takes a fifth of the time in which the pages of a report load, and they factor nothing

    num_features = len(covariance_DD)
    # Fortran order, which LAPACK wants, is the transpose of a symmetric matrix: nothing has to be moved.
    (pivoted_cholesky,) = scipy.linalg.get_lapack_funcs(("pstrf",), (covariance_DD,))
    lower_DD, pivots_D, rank, _ = pivoted_cholesky(covariance_DD.T, lower=1)
    factor_DR = np.zeros((num_features, rank))
    factor_DR[pivots_D - 1] = np.tril(lower_DD[:, :rank])
    # Products with random directions are compared instead of whole matrices: D² operations, and no less telling.
    directions_DK = np.random.default_rng(0).standard_normal((num_features, 4))
    expected_DK = covariance_DD @ directions_DK
    scale = np.abs(expected_DK).max()
    if np.abs(covariance_DD.T @ directions_DK - expected_DK).max() > SYMMETRY_TOLERANCE * scale:
        raise ValueError("covariance is not symmetric")
    if np.abs(factor_DR @ (factor_DR.T @ directions_DK) - expected_DK).max() <= CHOLESKY_TOLERANCE * scale:
        return factor_DR
    values_D, vectors_DD = np.linalg.eigh(covariance_DD)
    if values_D[0] < -SYMMETRY_TOLERANCE * values_D[-1]:
        raise ValueError("covariance has negative eigenvalues")
    positive = values_D > 0
    return vectors_DD[:, positive] * np.sqrt(values_D[positive])


def _check_finite(values: Array, name: str) -> None:
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds values that are not finite")
