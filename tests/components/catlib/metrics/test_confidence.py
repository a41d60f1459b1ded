import numpy as np
import pytest

from components.catlib.metrics.confidence import bootstrap_interval


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
