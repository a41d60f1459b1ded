import logging
import warnings
from pathlib import Path

import onnx
import pytest
import torch

from components.catlib.config.networks import Upsample
from components.catlib.exporting.onnx_file import export_generator
from components.catlib.exporting.parity import OnnxGenerator, compare, parity_batches
from components.catlib.exporting.profiles import Student, write_profiles
from tests.components.catlib.exporting.small_generators import NORMS, RUNNING, SIZE, example, inception, spade


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_inception_export_takes_any_batch_and_size(norm: str, tmp_path: Path) -> None:
    generator = inception(NORMS[norm], padding="zero" if norm == "batch" else "reflect")
    model = export_generator(
        generator, tmp_path / "model.onnx", input_size=SIZE, opset=18, metadata={"name": "tiny", "paper_macs": "12"}
    )

    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]
    assert model.opset == 18
    assert model.input_shape == ("batch", 3, "4*height", "4*width") == model.output_shape
    assert model.any_size
    read = onnx.load(model.path)
    assert {prop.key: prop.value for prop in read.metadata_props} == {"name": "tiny", "paper_macs": "12"}
    assert [item.name for item in [*read.graph.input, *read.graph.output]] == ["image", "translated"]
    assert b".py" not in model.path.read_bytes(), "the file tells where the code lay"

    batches = parity_batches(example(generator, 3), size_step=4)
    assert {tuple(batch.shape) for batch in batches} == {(1, 3, 16, 24), (3, 3, 16, 24), (1, 3, 16, 28), (1, 3, 32, 24)}
    parity = compare(generator, OnnxGenerator(model.path), batches)
    assert 0 < parity.mean < parity.largest < 1e-5
    if norm == "batch":
        assert "BatchNormalization" not in model.operators, "norms with running statistics cost nothing"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("upsample", ["resize", "subpixel"])
def test_every_kind_of_upsampling_is_exported(upsample: Upsample, norm: str, tmp_path: Path) -> None:
    generator = inception(NORMS[norm], upsample=upsample)
    for rewrites in ((), ("padded_channels", "output_phases")):
        path = tmp_path / f"{len(rewrites)}.onnx"
        model = export_generator(generator, path, input_size=SIZE, opset=18, metadata={}, rewrites=rewrites)
        parity = compare(generator, OnnxGenerator(model.path), parity_batches(example(generator, 2), size_step=4))
        assert 0 < parity.largest < 1e-5


def test_spade_export_has_one_size_and_any_batch(tmp_path: Path) -> None:
    generator = spade()
    model = export_generator(generator, tmp_path / "model.onnx", input_size=(32, 64), opset=20, metadata={})

    assert model.input_shape == ("batch", 4, 32, 64)
    assert model.output_shape == ("batch", 3, 32, 64)
    assert not model.any_size
    labels = example(generator, 3, (32, 64))
    assert set(labels.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(labels.sum(dim=1), torch.ones(3, 32, 64))
    assert compare(generator, OnnxGenerator(model.path), parity_batches(labels, size_step=None)).largest < 1e-5

    static = Student(generator, (32, 64), labels[:1], 20, {})
    facts = write_profiles(tmp_path, ["static"], static, tolerance=1e-5)["static"]
    assert facts["input"] == {"name": "image", "shape": [1, 4, 32, 64], "values": "0 or 1"}
    assert facts["output"] == {"name": "translated", "shape": [1, 3, 32, 64], "values": "-1 to 1"}


def test_export_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_generator(inception(RUNNING), tmp_path / "m.onnx", input_size=SIZE, opset=23, metadata={})
    assert capfd.readouterr() == ("", "")
    assert caplog.messages == []
    assert logging.getLogger("onnxscript").level == logging.NOTSET
