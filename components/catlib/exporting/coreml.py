"""Writes a portable graph as a Core ML package whose input and output are pictures, and reads it back.

Core ML itself runs on Apple's systems alone. What can be checked here: the saved package is read back with Apple's
tools, its ends are pictures of the right size and colours, and its program, computed operation by operation in PyTorch
as Apple defines them, makes the student's images. Needs the package `coremltools` (extra [coreml]).

Shape suffixes: N images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import contextlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor
from torch.nn import functional

from components.catlib.exporting.onnx_file import INPUT, OUTPUT, only_errors
from components.catlib.exporting.portable import Node, read_nodes
from components.catlib.exporting.profile_rules import COLOURS

OPERATORS = frozenset({"add", "conv", "conv_transpose", "instance_norm", "leaky_relu", "mul", "pad", "relu", "tanh"})
"""All operations that a package may hold, beside constants."""

OLDEST_SYSTEM = "iOS16"
"""The oldest systems that run it (macOS 13): the first with pictures as output of a program."""


def write_coreml(model: onnx.ModelProto, path: Path, metadata: Mapping[str, str]) -> None:
    """Writes a portable graph with values of 0 to 255 as an `.mlpackage`, a folder, with texts as metadata.

    Its numbers are float32.
    """
    shapes = {
        end.name: tuple(dim.dim_value for dim in end.type.tensor_type.shape.dim)
        for end in (model.graph.input[0], model.graph.output[0])
    }
    with _quiet():
        import coremltools as ct  # an extra  # pyright: ignore[reportMissingImports]
        from coremltools.converters.mil import Builder  # pyright: ignore[reportMissingImports]

        system = getattr(ct.target, OLDEST_SYSTEM)

        @Builder.program(input_specs=[Builder.TensorSpec(shape=shapes[INPUT])], opset_version=system)
        def program(image: Any) -> Any:
            tensors = {INPUT: image}
            for node in read_nodes(model):
                tensors[node.name] = _operation(Builder, node, [tensors[name] for name in node.inputs])
            return tensors[OUTPUT]

        def picture(name: str, **settings: Any) -> Any:
            return ct.ImageType(name=name, color_layout=COLOURS[shapes[name][1]], **settings)

        program.functions["main"].set_output_types([picture(OUTPUT)])  # pyright: ignore[reportFunctionMemberAccess]
        made = ct.convert(
            program,
            convert_to="mlprogram",
            inputs=[picture(INPUT, shape=shapes[INPUT])],
            minimum_deployment_target=system,
            compute_precision=ct.precision.FLOAT32,
            skip_model_load=True,
        )
        made.user_defined_metadata.update(metadata)
        made.user_defined_metadata.pop("com.github.apple.coremltools.conversion_date", None)
        made.save(str(path))
    _name_parts_alike(path)


def _operation(builder: Any, node: Node, inputs: list[Any]) -> Any:
    """Adds an operation of the portable graph to a program."""
    x, name, edge = inputs[0], node.name, node.edge if node.operator in ("Pad", "Conv", "ConvTranspose") else 0
    match node.operator:
        case "Add" | "Mul":
            other = inputs[1] if len(inputs) > 1 else node.constants[0]
            return getattr(builder, node.operator.lower())(x=x, y=other, name=name)
        case "Relu" | "Tanh":
            return getattr(builder, node.operator.lower())(x=x, name=name)
        case "LeakyRelu":
            return builder.leaky_relu(x=x, alpha=np.float32(node.attributes["alpha"]), name=name)
        case "Pad":
            mode = {"reflect": "reflect", "edge": "replicate"}[node.attributes["mode"]]
            return builder.pad(x=x, pad=[edge] * 4, mode=mode, name=name)
        case "InstanceNormalization":
            scale, shift = node.constants
            epsilon = np.float32(node.attributes["epsilon"])
            return builder.instance_norm(x=x, gamma=scale, beta=shift, epsilon=epsilon, name=name)
    weight, *bias = node.constants
    settings = {"strides": [node.stride] * 2, "pad_type": "custom", "pad": [edge] * 4, "name": name}
    settings |= {"bias": bias[0]} if bias else {}
    if node.operator == "Conv":
        return builder.conv(x=x, weight=weight, groups=node.group, **settings)
    _, _, height, width = x.shape
    k, (added,) = weight.shape[-1], set(node.attributes["output_padding"])
    sides = [(side - 1) * node.stride + k - 2 * edge + added for side in (height, width)]
    return builder.conv_transpose(x=x, weight=weight, output_shape=[1, weight.shape[1], *sides], **settings)


class CoreMLProgram:
    """The program of a saved package, computed in PyTorch.

    Attributes:
        operators: Names of its operations, without constants.
        ends: By name of the input and output, the spec's word for its kind and colours, height and width.
        version: Version of the specification.
    """

    def __init__(self, path: Path) -> None:
        with _quiet():
            import coremltools as ct  # an extra  # pyright: ignore[reportMissingImports]
            from coremltools.converters.mil.frontend.milproto.load import load  # pyright: ignore[reportMissingImports]

            package = ct.models.MLModel(str(path), skip_model_load=True)
            spec = package.get_spec()
            program = load(spec, spec.specificationVersion, file_weights_dir=package.weights_dir)
        self.version = int(spec.specificationVersion)
        self.ends = {end.name: _kind(end.type) for end in (*spec.description.input, *spec.description.output)}
        function = program.functions["main"]
        self._operations = [each for each in function.operations if each.op_type != "const"]
        self._output = function.outputs[0].name
        self.operators = [each.op_type for each in self._operations]

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Translates float32 images [N, C, H, W] to images [N, C', H, W], both of 0 to 255."""
        made = {INPUT: images_NCHW}
        for operation in self._operations:
            values = {
                name: given if isinstance(given, list | tuple) else _value(given, made)
                for name, given in operation.inputs.items()
                if given is not None
            }
            made[operation.outputs[0].name] = _COMPUTED[operation.op_type](values)
        return made[self._output]


def _kind(kind: Any) -> tuple[str, str, int, int]:
    word = kind.WhichOneof("Type")
    if word != "imageType":
        return word, "", 0, 0
    picture = kind.imageType
    return word, picture.ColorSpace.Name(picture.colorSpace), picture.height, picture.width


def _value(given: Any, made: dict[str, Tensor]) -> Any:
    if given.val is None:
        return made[given.name]
    return torch.from_numpy(np.asarray(given.val)) if getattr(given.val, "dtype", None) == np.float32 else given.val


def _convolved(values: dict[str, Any]) -> Tensor:
    edge = _only(values["pad"])
    return functional.conv2d(values["x"], values["weight"], values.get("bias"), _only(values["strides"]), edge,
                             groups=int(values["groups"]))  # fmt: skip


def _transposed(values: dict[str, Any]) -> Tensor:
    x, weight, edge, stride = values["x"], values["weight"], _only(values["pad"]), _only(values["strides"])
    whole = functional.conv_transpose2d(x, weight, values.get("bias"), stride)
    height, width = (int(side) for side in values["output_shape"][2:])
    return whole[:, :, edge : edge + height, edge : edge + width]


def _only(numbers: Any) -> int:
    (number,) = {int(each) for each in numbers}
    return number


_COMPUTED: dict[str, Callable[[dict[str, Any]], Tensor]] = {
    "add": lambda v: v["x"] + v["y"],
    "mul": lambda v: v["x"] * v["y"],
    "relu": lambda v: v["x"].relu(),
    "tanh": lambda v: v["x"].tanh(),
    "leaky_relu": lambda v: functional.leaky_relu(v["x"], float(v["alpha"])),
    "pad": lambda v: functional.pad(v["x"], [int(each) for each in v["pad"]], str(v["mode"])),
    "instance_norm": lambda v: functional.instance_norm(
        v["x"], weight=v["gamma"], bias=v["beta"], eps=float(v["epsilon"])
    ),
    "conv": _convolved,
    "conv_transpose": _transposed,
}


def _name_parts_alike(path: Path) -> None:
    """Replaces the package's random names of its parts, so that two exports of a student are the same bytes."""
    manifest = path / "Manifest.json"
    content = json.loads(manifest.read_text(encoding="utf-8"))
    names = {old: str(uuid.uuid5(uuid.NAMESPACE_URL, each["path"])).upper()
             for old, each in content["itemInfoEntries"].items()}  # fmt: skip
    content["itemInfoEntries"] = {
        names[old]: content["itemInfoEntries"][old] for old in sorted(names, key=lambda old: names[old])
    }
    content["rootModelIdentifier"] = names[content["rootModelIdentifier"]]
    manifest.write_text(json.dumps(content, indent=4) + "\n", encoding="utf-8")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silences Apple's tools: bars on stderr, and warnings that this system cannot run models."""
    with only_errors("coremltools"), Path(os.devnull).open("w") as nowhere, contextlib.redirect_stderr(nowhere):
        yield
