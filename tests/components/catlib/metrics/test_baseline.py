import numpy as np
import pytest

from components.catlib.metrics.baseline import best_constant_picture


def test_the_median_of_each_channel():
    pixels = np.array([[0, 10, 255], [10, 10, 0], [255, 40, 0]], np.uint8).reshape(3, 1, 1, 3)
    best = best_constant_picture([pixels[:1], pixels[1:]])
    assert best.colour == (10, 10, 0)
    assert best.l1 == pytest.approx(((10 + 0 + 245) + (0 + 0 + 30) + (255 + 0 + 0)) / 9 / 127.5)


def test_no_other_colour_is_better():
    images = np.random.default_rng(0).integers(0, 256, (4, 5, 5, 3), dtype=np.uint8) // np.array([1, 2, 3], np.uint8)
    best = best_constant_picture([images])
    scaled = images.astype(float)
    others = [np.abs(scaled - colour).mean() / 127.5 for colour in np.random.default_rng(1).integers(0, 256, (300, 3))]
    assert best.l1 <= min(others)
    assert best.l1 == pytest.approx(np.abs(scaled - np.array(best.colour)).mean() / 127.5)
