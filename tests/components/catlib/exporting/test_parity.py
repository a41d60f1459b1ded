import json

import pytest
import torch

from components.catlib.exporting.parity import compare, time_both
from tests.components.catlib.exporting.small_generators import RUNNING, example, inception


class Fixed:
    """Stands in for ONNX Runtime: returns what it is told."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image = image

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.image


def test_compare_measures_the_largest_and_the_mean_difference() -> None:
    generator = inception(RUNNING)
    images = example(generator, 1)
    with torch.no_grad():
        off = generator(images).clone()
    off[0, 1, 2, 3] += 0.25

    parity = compare(generator, Fixed(off), [images])  # pyright: ignore[reportArgumentType]

    assert parity.largest == pytest.approx(0.25, abs=1e-6)
    assert parity.mean == pytest.approx(0.25 / off.numel(), rel=1e-3)
    assert parity.shapes == ((1, 3, 16, 24),)


@pytest.mark.parametrize(
    ("image", "message"),
    [(torch.zeros(1, 3, 16, 20), "shape"), (torch.full((1, 3, 16, 24), torch.nan), "not finite")],
)
def test_compare_refuses_other_shapes_and_nan(image: torch.Tensor, message: str) -> None:
    generator = inception(RUNNING)
    images = example(generator, 1)
    with pytest.raises(RuntimeError, match=message):
        compare(generator, Fixed(image), [images])  # pyright: ignore[reportArgumentType]


def test_both_are_timed() -> None:
    generator = inception(RUNNING)
    image = example(generator, 1)
    timed = time_both(generator, Fixed(image), image, repeats=2)  # pyright: ignore[reportArgumentType]
    assert list(timed) == ["torch", "onnxruntime"]
    assert timed["torch"].median > timed["onnxruntime"].median > 0
    assert json.dumps(timed["torch"].median)
