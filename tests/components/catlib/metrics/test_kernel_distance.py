import itertools

import numpy as np
import pytest

from components.catlib.metrics.kernel_distance import kernel_distance, polynomial_mmd


def features(seed: int, count: int, dims: int = 8, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, dims)) + shift


def test_mmd_is_the_sum_over_pairs():
    x, y = features(0, 4, 3), features(1, 4, 3)

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    within = sum(np.mean([kernel(a, b) for a, b in itertools.permutations(z, 2)]) for z in (x, y))
    between = np.mean([kernel(a, b) for a in x for b in y])
    assert polynomial_mmd(x, y) == pytest.approx(within - 2 * between, rel=1e-12)


def test_equal_distributions_are_near_zero_and_different_ones_are_not():
    real = features(0, 400)
    same = kernel_distance(real, features(1, 300))
    shifted = kernel_distance(real, features(2, 300, shift=0.5))
    assert abs(same.mean) < 3 * same.std
    assert shifted.mean > 10 * abs(same.mean)
    assert (same.subsets, same.subset_size) == (100, 100)


def test_subsets_are_no_larger_than_the_data():
    few = kernel_distance(features(0, 12), features(1, 300))
    assert few.subset_size == 12
    # With all vectors of both sets in every subset there is nothing random left.
    whole = kernel_distance(features(0, 12), features(1, 12))
    assert whole.mean == pytest.approx(polynomial_mmd(features(0, 12), features(1, 12)), rel=1e-9)
    assert whole.std == pytest.approx(0, abs=1e-12)


def test_the_seed_decides_the_subsets():
    real, generated = features(0, 200), features(1, 200)
    assert kernel_distance(real, generated, seed=3) == kernel_distance(real, generated, seed=3)
    assert kernel_distance(real, generated, seed=3) != kernel_distance(real, generated, seed=4)


def test_too_few_or_unequal_features_are_refused():
    with pytest.raises(ValueError, match="two vectors of each set, got 1 and 5"):
        kernel_distance(features(0, 1), features(1, 5))
    with pytest.raises(ValueError, match="cannot compare 8 features with 7"):
        kernel_distance(features(0, 5), features(1, 5, dims=7))
