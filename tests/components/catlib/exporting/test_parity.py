import json
from pathlib import Path

import pytest
import torch

from components.catlib.exporting.onnx_file import export_generator
from components.catlib.exporting.parity import OnnxGenerator, batch_dependence, compare, time_both
from tests.components.catlib.exporting.small_generators import NORMS, RUNNING, SIZE, example, inception


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


@pytest.mark.parametrize("norm", ["batch", "instance", "batch statistics"])
def test_an_image_in_a_batch_is_compared_with_the_image_alone(norm: str, tmp_path: Path) -> None:
    generator = inception(NORMS[norm])
    model = export_generator(generator, tmp_path / "model.onnx", input_size=SIZE, opset=20, metadata={})
    images, other = example(generator, 2), 0.1 * example(generator, 3)[2:]
    found = batch_dependence(OnnxGenerator(model.path), images, other)
    assert (found > 1e-2) if norm == "batch statistics" else (found < 1e-5)


def test_both_are_timed() -> None:
    generator = inception(RUNNING)
    image = example(generator, 1)
    timed = time_both(generator, Fixed(image), image, repeats=2)  # pyright: ignore[reportArgumentType]
    assert list(timed) == ["torch", "onnxruntime"]
    assert timed["torch"].median > timed["onnxruntime"].median > 0
    assert json.dumps(timed["torch"].median)
