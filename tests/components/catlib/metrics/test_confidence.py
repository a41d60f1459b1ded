import time

import numpy as np
import pytest

from components.catlib.metrics import kernel_distance
from components.catlib.metrics.confidence import (
    MOST_GROUPS,
    bootstrap_interval,
    confusions_interval,
    frechet_interval,
    groups,
    interval_around,
    kernel_interval,
    means_interval,
)
from components.catlib.metrics.frechet import Gaussian, distances_without, frechet_distance
from components.catlib.metrics.segmentation import mean_iou


def generated(seed: int, count: int, dims: int) -> np.ndarray:
    """Features of decaying variance, some images further from the mean than others."""
    random = np.random.default_rng(seed)
    lengths = 1 + 0.3 * random.standard_normal((count, 1))
    return 1.2 * lengths * random.standard_normal((count, dims)) * np.exp(-np.arange(dims) / (dims / 8))


def real(count: int, dims: int) -> np.ndarray:
    return np.random.default_rng(0).standard_normal((count, dims)) * np.exp(-np.arange(dims) / (dims / 8))


def test_the_interval_is_about_two_standard_errors_to_each_side():
    values = np.random.default_rng(1).standard_normal(400) * 3 + 10
    low, high = bootstrap_interval(values)
    error = values.std() / np.sqrt(len(values))
    assert low == pytest.approx(values.mean() - 1.96 * error, abs=0.2 * error)
    assert high == pytest.approx(values.mean() + 1.96 * error, abs=0.2 * error)


def test_it_is_the_same_every_time_and_a_point_for_equal_values():
    values = np.random.default_rng(2).random(30)
    assert bootstrap_interval(values) == bootstrap_interval(values)
    assert bootstrap_interval(np.full(5, 2.5)) == (2.5, 2.5)


def test_a_score_of_means_is_resampled_as_a_mean_is():
    values = np.random.default_rng(4).random((30, 2))
    assert means_interval(values, lambda means_RK: means_RK[:, 1]) == pytest.approx(bootstrap_interval(values[:, 1]))
    low, high = means_interval(values, lambda means_RK: means_RK[:, 0] / 4)
    assert (4 * low, 4 * high) == pytest.approx(bootstrap_interval(values[:, 0]))


def test_the_pseudo_values_of_a_mean_are_the_values():
    values = np.random.default_rng(3).random(40)
    without = (values.sum() - values) / (len(values) - 1)
    assert interval_around(values.mean(), without) == pytest.approx(bootstrap_interval(values), rel=1e-9)


def test_many_images_are_left_out_in_groups_of_equal_size():
    assert groups(5).tolist() == [0, 1, 2, 3, 4]
    sizes = np.bincount(groups(1000))
    assert len(sizes) == MOST_GROUPS
    assert sizes.max() - sizes.min() == 1
    assert np.array_equal(groups(1000), groups(1000))
    assert not np.array_equal(groups(1000)[:MOST_GROUPS], np.arange(MOST_GROUPS))


@pytest.mark.parametrize(("count", "dims"), [(20, 6), (20, 64), (3, 8)])
def test_distances_without_an_image_are_those_of_the_rest(count: int, dims: int):
    features, others = generated(1, count, dims) + 0.3, real(50, dims)
    gaussian = Gaussian.from_samples(others)
    for target in (gaussian, Gaussian.from_moments(others.mean(axis=0), np.cov(others, rowvar=False))):
        found = distances_without(features, target, groups(count))
        expected = [
            frechet_distance(Gaussian.from_samples(np.delete(features, row, axis=0)), gaussian) for row in range(count)
        ]
        assert found == pytest.approx(expected, rel=1e-8)
    found = kernel_distance.distances_without(features, features[: count - 1] * 2, np.arange(count))
    expected = [
        kernel_distance.polynomial_mmd(np.delete(features, row, axis=0), features[: count - 1] * 2)
        for row in range(count)
    ]
    assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("dims", [24, 300])
def test_distances_between_sets_vary_as_much_as_their_intervals_say(dims: int):
    """With fewer images than features too, where drawing images twice would give far larger distances."""
    others = real(80, dims)
    gaussian = Gaussian.from_samples(others)
    frechet, kernel = [], []
    for seed in range(60):
        features = generated(100 + seed, 60, dims)
        value = frechet_distance(Gaussian.from_samples(features), gaussian)
        frechet.append((value, frechet_interval(features, gaussian, value)))
        value = kernel_distance.kernel_distance(features, others, subsets=10).mean
        kernel.append((value, kernel_interval(features, others, value)))
    for results in (frechet, kernel):
        values = np.array([value for value, _ in results])
        covered = [low <= values.mean() <= high for low, high in (interval for _, interval in results)]
        assert 0.85 <= np.mean(covered) <= 1
        widths = np.array([high - low for _, (low, high) in results])
        assert widths.mean() == pytest.approx(2 * 1.96 * values.std(), rel=0.35)
        assert all(low <= value <= high for value, (low, high) in results)


def test_two_images_tell_nothing_about_their_distance():
    features = generated(0, 2, 4)
    assert frechet_interval(features, Gaussian.from_samples(real(9, 4)), 1.0) is None
    assert kernel_interval(features, real(9, 4), 1.0) is None


def test_miou_is_resampled_by_image():
    """Two kinds of images, all right and half wrong: their share varies as that of a coin does."""
    right, wrong = np.array([[10, 0], [0, 10]]), np.array([[5, 5], [5, 5]])
    confusions = np.array([right, wrong] * 50)
    low, high = confusions_interval(confusions, mean_iou)
    share = 1.96 * 0.5 / np.sqrt(100)
    ends = [mean_iou((100 * (right * p + wrong * (1 - p))).astype(int)) for p in (0.5 - share, 0.5 + share)]
    assert (low, high) == pytest.approx(ends, abs=2)
    assert low < mean_iou(confusions.sum(axis=0)) < high
    assert confusions_interval(np.array([right, right]), mean_iou) == (100, 100)
    # An image without a scored class does not disturb.
    assert confusions_interval(np.array([right, right * 0, right * 0]), mean_iou)[0] == 100


def test_118_images_take_seconds(capsys: pytest.CaptureFixture[str]):
    features, gaussian = generated(0, 118, 2048), Gaussian.from_samples(real(118, 2048))
    start = time.perf_counter()
    frechet_interval(features, gaussian, 1.0)
    kernel_interval(features, real(118, 2048), 1.0)
    seconds = time.perf_counter() - start
    with capsys.disabled():
        print(f"\nIntervals of Fréchet and kernel distance for 118 × 2048: {seconds:.1f} s")
    assert seconds < 10
