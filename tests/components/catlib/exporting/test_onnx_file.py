import json
import logging
import warnings
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from components.catlib.config import InceptionSpadeConfig, NormConfig
from components.catlib.exporting.onnx_file import (
    OnnxGenerator,
    compare,
    export_generator,
    inference_copy,
    noise_images,
    parity_batches,
    time_both,
)
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.generators import Generator, build_generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture, SpadeBlock

SIZE = (16, 24)
VANISHED = SpadeBlock(branches=BranchChannels(res=(0,), dw=(0,)), spade=BranchChannels(res=(0,), dw=(0,)))
RUNNING = NormConfig(kind="batch", track_running_stats=True)


def trained_looking(generator: Generator) -> Generator:
    """Gives norms scales, biases and running statistics that differ between channels."""
    for module in generator.modules():
        for name, tensor in [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]:
            if name == "running_var" or (name == "weight" and tensor.ndim == 1):
                nn.init.uniform_(tensor, 0.5, 1.5)
            elif name in ("running_mean", "bias"):
                nn.init.normal_(tensor, std=0.1)
    return generator.eval()


def inception(norm: NormConfig, *, padding: str = "reflect") -> Generator:
    """One block with three of the six branches, another without any."""
    architecture = InceptionArchitecture(
        in_channels=3,
        out_channels=3,
        down=(4, 6, 8),
        blocks=(BranchChannels(res=(0, 3, 0), dw=(2, 0, 3)), BranchChannels(res=(0, 0, 0), dw=(0, 0, 0))),
        up=(6, 5),
        kernel_sizes=(1, 3, 5),
        norm=norm,
        padding=padding,  # pyright: ignore[reportArgumentType]
        dropout=0.0,
        activation="relu",
    )
    return trained_looking(build_generator(architecture))


def spade() -> Generator:
    """Two blocks with branches, the others without."""
    config = InceptionSpadeConfig(
        base_channels=1,
        channels_reduction_factor=4,
        kernel_sizes=(3,),
        spade_hidden_channels=8,
        num_upsampling_layers="normal",
        norm=RUNNING,
        spectral=True,
    )
    architecture = architecture_from_config(config, in_channels=4, out_channels=3, crop_size=(32, 64))
    assert isinstance(architecture, InceptionSpadeArchitecture)
    blocks = {name: block if name in ("head_0", "up_0") else VANISHED for name, block in architecture.blocks.items()}
    architecture = architecture.model_copy(update={"blocks": blocks})
    return trained_looking(build_generator(architecture))


NORMS = {
    "instance": NormConfig(kind="instance"),
    "instance with running statistics": NormConfig(kind="instance", track_running_stats=True),
    "batch": RUNNING,
    "batch without affine": NormConfig(kind="batch", track_running_stats=True, affine=False),
    "sync batch": NormConfig(kind="syncbatch", track_running_stats=True),
    "batch statistics": NormConfig(kind="syncbatch", track_running_stats=False),
}


@pytest.mark.parametrize("norm", NORMS.values(), ids=NORMS.keys())
def test_inference_copy_computes_the_same_images(norm: NormConfig) -> None:
    generator = inception(norm)
    before = {name: tensor.clone() for name, tensor in generator.state_dict().items()}
    images = noise_images(generator, count=2, input_size=SIZE)

    copied = inference_copy(generator)

    torch.testing.assert_close(copied(images), generator(images), atol=1e-6, rtol=0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in generator.state_dict().items())


@pytest.mark.parametrize("norm", ["batch", "batch without affine", "sync batch", "instance with running statistics"])
def test_inference_copy_folds_norms_with_running_statistics(norm: str) -> None:
    copied = inference_copy(inception(NORMS[norm]))
    assert isinstance(copied.get_submodule("features.0.pw_bn"), nn.Identity)
    norms = (nn.BatchNorm2d, nn.SyncBatchNorm, nn.InstanceNorm2d)
    assert [name for name, module in copied.named_modules() if isinstance(module, norms)] == []


def test_inference_copy_drops_biases_that_an_instance_norm_takes_away() -> None:
    copied = inference_copy(inception(NORMS["instance"]))
    with_bias = [
        name
        for name, module in copied.named_modules()
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d) and module.bias is not None
    ]
    assert with_bias == ["up_sampling.7"]


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

    batches = parity_batches(noise_images(generator, count=3, input_size=SIZE), any_size=True)
    assert {tuple(batch.shape) for batch in batches} == {(1, 3, 16, 24), (3, 3, 16, 24), (1, 3, 16, 28), (1, 3, 32, 24)}
    parity = compare(generator, OnnxGenerator(model.path), batches)
    assert 0 < parity.mean < parity.largest < 1e-5
    if norm == "batch":
        assert "BatchNormalization" not in model.operators, "norms with running statistics cost nothing"


def test_spade_export_has_one_size_and_any_batch(tmp_path: Path) -> None:
    generator = spade()
    model = export_generator(generator, tmp_path / "m.onnx", input_size=(32, 64), opset=20, metadata={})

    assert model.input_shape == ("batch", 4, 32, 64)
    assert model.output_shape == ("batch", 3, 32, 64)
    assert not model.any_size
    labels = noise_images(generator, count=3, input_size=(32, 64))
    assert set(labels.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(labels.sum(dim=1), torch.ones(3, 32, 64))
    assert compare(generator, OnnxGenerator(model.path), parity_batches(labels, any_size=False)).largest < 1e-5


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


class Fixed:
    """Stands in for ONNX Runtime: returns what it is told."""

    def __init__(self, image: torch.Tensor) -> None:
        self.image = image

    def __call__(self, images_NCHW: torch.Tensor) -> torch.Tensor:
        return self.image


def test_compare_measures_the_largest_and_the_mean_difference() -> None:
    generator = inception(RUNNING)
    images = noise_images(generator, count=1, input_size=SIZE)
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
    images = noise_images(generator, count=1, input_size=SIZE)
    with pytest.raises(RuntimeError, match=message):
        compare(generator, Fixed(image), [images])  # pyright: ignore[reportArgumentType]


def test_noise_is_reproducible_and_in_range() -> None:
    generator = inception(RUNNING)
    images = noise_images(generator, count=2, input_size=SIZE)
    assert torch.equal(images, noise_images(generator, count=2, input_size=SIZE))
    assert images.min() < -0.9 < 0.9 < images.max() <= 1


def test_both_are_timed(tmp_path: Path) -> None:
    generator = inception(RUNNING)
    image = noise_images(generator, count=1, input_size=SIZE)
    timed = time_both(generator, Fixed(image), image, repeats=2)  # pyright: ignore[reportArgumentType]
    assert list(timed) == ["torch", "onnxruntime"]
    assert timed["torch"].median > timed["onnxruntime"].median > 0
    assert json.dumps(timed["torch"].median)
