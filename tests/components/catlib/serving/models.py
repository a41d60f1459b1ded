"""Exported generators for tests: real small ones, and hand-made files that turn colours into their negative."""

import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper

from components.catlib.config import ValuesConfig
from components.catlib.exporting.folding import inference_copy
from components.catlib.exporting.metadata import serving_metadata
from components.catlib.networks.generator import Generator

RGB = {"type": "uint8", "channels": 3, "range": [0, 255]}


def exported(generator: Generator, path: Path, **planes: Any) -> Path:
    """Writes a generator with its metadata; the exporter of the stage would take half a minute for the same file.

    Args:
        generator: The network.
        path: The file.
        planes: What its planes mean, if it reads label maps.
    """
    fixed = generator.architecture.fixed_size
    example = torch.from_numpy(generator.architecture.example_input(1, fixed or (64, 64)))
    free = [0] if fixed else [0, 2, 3]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            inference_copy(generator), (example,), path, dynamo=False, opset_version=18, input_names=["image"],
            output_names=["translated"], dynamic_axes={"image": free, "translated": free},
        )  # fmt: skip
    model = onnx.load(path)
    texts = serving_metadata(generator.architecture, {}, None)
    helper.set_model_props(model, texts | ({"input_planes": json.dumps(planes)} if planes else {}))
    onnx.save(model, path)
    return path


def negative(
    path: Path, *, reads: dict[str, Any] = RGB, makes: dict[str, Any] = RGB, planes: dict[str, Any] | None = None,
    **facts: Any,
) -> Path:  # fmt: skip
    """Writes a model whose every output channel is minus the mean of its input channels, or minus that channel.

    Args:
        path: The file.
        reads: Values of its input.
        makes: Values of its output.
        planes: Planes of its input in place of values.
        facts: Metadata to replace; "absent" removes it.
    """
    count = planes["num_labels"] + planes["dont_care_plane"] if planes else reads["channels"]
    weights = -np.eye(count) if count == makes["channels"] else np.full((makes["channels"], count), -1 / count)
    metadata: dict[str, Any] = {
        "size_step": 4, "smallest_size": 8, "fixed_size": None, "receptive_radius": 0, "input_size": "16x24 (…)",
        "output_values": makes,
    }  # fmt: skip
    ends = (
        {"input_kind": "labels", "input_planes": planes} if planes else {"input_kind": "images", "input_values": reads}
    )
    texts = {
        name: value if isinstance(value, str) else json.dumps(value)
        for name, value in (metadata | ends | facts).items()
        if value != "absent"
    }
    write(path, weights.astype(np.float32), texts)
    return path


def write(path: Path, weights: np.ndarray, texts: dict[str, str]) -> None:
    """Writes a 1x1 convolution with these weights [out, in] and this metadata."""
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "weights"], ["translated"])],
        "negative",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", weights.shape[1], "height", "width"])],
        [
            helper.make_tensor_value_info(
                "translated", TensorProto.FLOAT, ["batch", weights.shape[0], "height", "width"]
            )
        ],
        [numpy_helper.from_array(np.ascontiguousarray(weights[:, :, None, None]), "weights")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    helper.set_model_props(model, texts)
    onnx.save(model, path)


def science(type_: str, channels: int, low: float, high: float) -> dict[str, Any]:
    """Returns values as JSON."""
    return ValuesConfig(type=type_, channels=channels, range=(low, high)).model_dump(mode="json")  # pyright: ignore
