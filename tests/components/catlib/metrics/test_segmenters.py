from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto
from PIL import Image

from components.catlib.artifacts import file_sha256
from components.catlib.config import SegmenterConfig, WeightsConfig, validate
from components.catlib.errors import UserError
from components.catlib.metrics.drn import MEAN, STD, read_drn
from components.catlib.metrics.segmenters import read_segmenter
from tests.components.catlib.metrics.segmenter_files import write_drn, write_onnx

COLOURS = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=np.float32)
PLAIN: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}


def onnx_config(path: Path, **settings: Any) -> SegmenterConfig:
    return SegmenterConfig(architecture="onnx", weights=WeightsConfig(uri=str(path)), **(PLAIN | settings))


def scene(classes: np.ndarray) -> torch.Tensor:
    return torch.from_numpy((255 * COLOURS[classes]).astype(np.uint8)).permute(2, 0, 1)


def test_the_classes_of_an_onnx_network_are_those_of_the_largest_logit(tmp_path: Path):
    classes = np.random.default_rng(0).integers(0, 4, (6, 9))
    segmenter = read_segmenter(onnx_config(write_onnx(tmp_path / "s.onnx", COLOURS)))
    assert np.array_equal(segmenter.classes(scene(classes), (6, 9)), classes)
    assert segmenter.identity.sha256 == file_sha256(tmp_path / "s.onnx")
    labels = [classes.astype(np.uint8), np.full((6, 9), 255, np.uint8)]
    confusions = segmenter.confusions(torch.stack([scene(classes)] * 2), labels)
    assert np.array_equal(np.diag(confusions[0])[:4], np.bincount(classes.ravel()))
    assert confusions[0].sum() == 54
    assert confusions[1].sum() == 0


@pytest.mark.parametrize("size", [(12, 20), (3, 4), (6, 9)])
def test_logits_not_classes_are_resized_as_pillow_does(tmp_path: Path, size: tuple[int, int]):
    """The published protocol resizes each plane of logits with Pillow's bilinear filter."""
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 6, 9), dtype=np.uint8))
    seen = read_segmenter(onnx_config(write_onnx(tmp_path / "s.onnx", COLOURS))).classes(image, size)
    pixels = image.permute(1, 2, 0).numpy().astype(np.float32) / 255
    logits = 2 * pixels @ COLOURS.T - (COLOURS**2).sum(axis=1)
    resized = [
        np.asarray(Image.fromarray(plane).resize(size[::-1], Image.Resampling.BILINEAR))
        for plane in np.moveaxis(logits, -1, 0)
    ]
    assert (seen == np.argmax(resized, axis=0)).mean() > 0.99


def test_normalisation_and_input_size_are_what_the_configuration_says(tmp_path: Path):
    path = write_onnx(tmp_path / "s.onnx", COLOURS, size=(12, 18))
    classes = np.random.default_rng(2).integers(0, 4, (3, 3)).repeat(2, axis=0).repeat(3, axis=1)
    with pytest.raises(UserError, match=r"fails on images of height × width 6×9 .*set segmenter.input_size"):
        read_segmenter(onnx_config(path)).classes(scene(classes), (6, 9))
    fitting = read_segmenter(onnx_config(path, input_size=(12, 18)))
    assert (fitting.classes(scene(classes), (6, 9)) == classes).mean() > 0.9
    # Colours shifted far towards red look red.
    shifted = read_segmenter(onnx_config(path, input_size=(12, 18), mean=(-5, 0, 0)))
    assert (shifted.classes(scene(classes), (6, 9)) == 1).all()


def test_drn_sees_images_in_its_own_normalisation(tmp_path: Path):
    config = write_drn(tmp_path / "drn.pth")
    segmenter = read_segmenter(config)
    image = torch.from_numpy(np.random.default_rng(3).integers(0, 256, (3, 32, 32), dtype=np.uint8))
    normalised = (image[None] / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    with torch.inference_mode():
        expected = read_drn(tmp_path / "drn.pth")(normalised)[0].argmax(dim=0)
    assert (segmenter.classes(image, (32, 32)) == expected.numpy()).mean() > 0.99
    assert segmenter.classes(image, (64, 128)).shape == (64, 128)
    assert segmenter.identity.model_dump() == {
        "architecture": "drn_d_105",
        "sha256": config.weights.sha256,
        "input_size": None,
        "mean": MEAN,
        "std": STD,
    }


def test_networks_of_other_classes_or_outputs_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"output logits .*20.*expected tensor\(float\) \[N, 19, height, width\]"):
        read_segmenter(onnx_config(write_onnx(tmp_path / "s.onnx", COLOURS, channels=20)))
    with pytest.raises(UserError, match=r"output logits is tensor\(int64\)"):
        read_segmenter(onnx_config(write_onnx(tmp_path / "i.onnx", COLOURS, output=TensorProto.INT64)))
    broken = read_segmenter(onnx_config(write_onnx(tmp_path / "n.onnx", COLOURS * np.nan)))
    with pytest.raises(UserError, match="NaN or infinity"):
        broken.classes(scene(np.zeros((4, 4), int)), (4, 4))


def test_files_that_are_no_networks_are_refused(tmp_path: Path):
    (tmp_path / "s.onnx").write_bytes(b"no network")
    with pytest.raises(UserError, match="is not an ONNX file"):
        read_segmenter(onnx_config(tmp_path / "s.onnx"))
    weights = WeightsConfig(uri=str(tmp_path / "s.onnx"), sha256="0" * 64)
    with pytest.raises(UserError, match="expected 0000"):
        read_segmenter(SegmenterConfig(architecture="onnx", weights=weights, **PLAIN))


def test_the_normalisation_of_an_onnx_network_must_be_given():
    with pytest.raises(UserError, match="onnx needs the mean and std"):
        validate(SegmenterConfig, {"architecture": "onnx", "weights": {"uri": "s.onnx"}}, where="segmenter")
