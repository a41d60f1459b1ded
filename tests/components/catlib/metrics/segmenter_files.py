"""Segmenters for tests: a DRN-D-105 with random weights, and an ONNX network that tells classes by their colour."""

from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor

from components.catlib.artifacts import file_sha256
from components.catlib.config import SegmenterConfig, WeightsConfig

STAGES = {3: (32, 64, 3), 4: (256, 128, 4), 5: (512, 256, 23), 6: (1024, 512, 3)}
"""Stage of the base -> channels in, channels inside, number of bottlenecks."""


def published_layout() -> dict[str, tuple[int, ...]]:
    """Returns name -> shape of every tensor of `drn-d-105_ms_cityscapes.pth`, spelled out."""
    shapes: dict[str, tuple[int, ...]] = {}

    def layer(convolution: str, norm: str, out_channels: int, in_channels: int, side: int) -> None:
        shapes[f"{convolution}.weight"] = (out_channels, in_channels, side, side)
        shapes.update({f"{norm}.{name}": (out_channels,) for name in ("weight", "bias", "running_mean", "running_var")})

    for number, (in_channels, out_channels, side) in {0: (3, 16, 7), 1: (16, 16, 3), 2: (16, 32, 3)}.items():
        layer(f"base.{number}.0", f"base.{number}.1", out_channels, in_channels, side)
    for number, (in_channels, channels, count) in STAGES.items():
        for block in range(count):
            place, before = f"base.{number}.{block}", in_channels if block == 0 else 4 * channels
            layer(f"{place}.conv1", f"{place}.bn1", channels, before, 1)
            layer(f"{place}.conv2", f"{place}.bn2", channels, channels, 3)
            layer(f"{place}.conv3", f"{place}.bn3", 4 * channels, channels, 1)
            if block == 0:
                layer(f"{place}.downsample.0", f"{place}.downsample.1", 4 * channels, before, 1)
    layer("base.7.0", "base.7.1", 512, 2048, 3)
    layer("base.8.0", "base.8.1", 512, 512, 3)
    return shapes | {"seg.weight": (19, 512, 1, 1), "seg.bias": (19,), "up.weight": (19, 1, 16, 16)}


def random_state() -> dict[str, Tensor]:
    """Returns such tensors with random numbers that keep activations in range."""
    torch.manual_seed(0)
    state = {}
    for name, shape in published_layout().items():
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            state[name] = torch.rand(shape) * 0.2 + 0.9
        elif len(shape) == 1:
            state[name] = torch.randn(shape) * 0.1
        else:
            state[name] = torch.randn(shape) * (1 / np.sqrt(np.prod(shape[1:])))
    return state


def write_drn(path: Path) -> SegmenterConfig:
    """Writes a file of the published layout."""
    torch.save(random_state(), path)
    return SegmenterConfig(weights=WeightsConfig(uri=str(path), sha256=file_sha256(path)))


def write_onnx(
    path: Path,
    colours: np.ndarray,
    *,
    channels: int = 19,
    size: tuple[int | str, int | str] = ("h", "w"),
    output: int = TensorProto.FLOAT,
    stride: int = 1,
) -> Path:
    """Writes a network whose logit of a class is the larger the nearer a pixel is to the class's colour in [0, 1].

    −|x − c|² is |x|², the same for all classes, aside linear in x: a 1×1 convolution.

    Args:
        path: The file.
        colours: [K, 3], K at most `channels`; further classes are never seen.
        channels: How many logits a pixel has.
        size: Height and width that it takes.
        output: Element type.
        stride: It gives a logit for every so manyth pixel.
    """
    weight = np.zeros((channels, 3, 1, 1), np.float32)
    bias = np.full(channels, -100, np.float32)
    weight[: len(colours), :, 0, 0] = 2 * colours
    bias[: len(colours)] = -(colours**2).sum(axis=1)
    nodes = [helper.make_node("Conv", ["image", "weight", "bias"], ["scores"], strides=[stride, stride])]
    nodes.append(helper.make_node("Cast", ["scores"], ["logits"], to=output))
    graph = helper.make_graph(
        nodes,
        "colours",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info("logits", output, ["n", channels, None, None])],
        [numpy_helper.from_array(weight, "weight"), numpy_helper.from_array(bias, "bias")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    onnx.save(model, path)
    return path
