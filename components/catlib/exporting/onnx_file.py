"""Writes a generator as an ONNX file.

Shape suffixes: N images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import onnx
import torch
from onnx.helper import set_model_props

from components.catlib.config.student import Rewrite
from components.catlib.exporting.folding import inference_copy
from components.catlib.exporting.inception_graph import inception_model
from components.catlib.networks.generator import Generator
from components.catlib.networks.inception.generator import InceptionGenerator

INPUT = "image"
OUTPUT = "translated"


@dataclass(frozen=True)
class OnnxModel:
    """An exported generator.

    Attributes:
        path: The file; it needs no other file.
        opset: Version of the standard operator set.
        input_shape: Shape of `image`; a free size is a text: ("batch", 3, "4*height", "4*width").
        output_shape: Shape of `translated`.
        operators: Number of nodes by operator.
    """

    path: Path
    opset: int
    input_shape: tuple[int | str, ...]
    output_shape: tuple[int | str, ...]
    operators: dict[str, int]

    @property
    def any_size(self) -> bool:
        """Whether height and width are free."""
        return isinstance(self.input_shape[2], str)


def export_generator(
    generator: Generator,
    path: Path,
    *,
    input_size: tuple[int, int],
    opset: int,
    metadata: Mapping[str, str],
    rewrites: Collection[Rewrite] = (),
) -> OnnxModel:
    """Writes a generator as one ONNX file with the input `image` and the output `translated`, float32 [N, C, H, W].

    The batch may have any size. Height and width may be any multiples of the architecture's `size_step`, unless it has
    a fixed size.

    Args:
        generator: The network, on the CPU.
        path: The file to write.
        input_size: Height and width in pixels of the images it is made for.
        opset: Version of the ONNX operator set.
        metadata: Texts to keep in the file, by name.
        rewrites: The rewrites to use (`components.catlib.exporting.rewriting`), some of those that the family has.

    Raises:
        onnx.checker.ValidationError: The file is not valid ONNX.
        RuntimeError: The file has another operator set, or needs other files.
    """
    model = generator_model(generator, input_size=input_size, opset=opset, rewrites=rewrites)
    return write_model(model, path, opset=opset, metadata=metadata)


def write_model(model: onnx.ModelProto, path: Path, *, opset: int, metadata: Mapping[str, str]) -> OnnxModel:
    """Writes an ONNX file with metadata, reads it back and checks it (`read_checked`).

    Raises:
        onnx.checker.ValidationError: The file is not valid ONNX.
        RuntimeError: The file has another operator set, or needs other files.
    """
    set_model_props(model, dict(metadata))
    onnx.save(model, path)
    written = read_checked(path, opset=opset)
    return OnnxModel(
        path=path,
        opset=opset,
        input_shape=shape_of(written.graph.input[0]),
        output_shape=shape_of(written.graph.output[0]),
        operators=count_operators(node.op_type for node in written.graph.node),
    )


def read_checked(path: Path, *, opset: int) -> onnx.ModelProto:
    """Reads an ONNX file that has exactly one operator set, the given one, and needs no other file.

    Raises:
        onnx.checker.ValidationError: The file is not valid ONNX.
        RuntimeError: The file has another operator set, or keeps weights in another file.
    """
    model = onnx.load(path, load_external_data=False)
    found = [(item.domain, item.version) for item in model.opset_import]
    if found != [("", opset)]:
        raise RuntimeError(f"{path.name} has the operator sets {found}, not opset {opset} alone.")
    if any(weight.data_location != onnx.TensorProto.DEFAULT for weight in model.graph.initializer):
        raise RuntimeError(f"{path.name} keeps weights in another file.")
    onnx.checker.check_model(model, full_check=True)
    return model


def count_operators(operators: Iterable[str]) -> dict[str, int]:
    """Returns how often each operator occurs, by name in alphabetical order."""
    return dict(sorted(collections.Counter(operators).items()))


def family_rewrites(generator: Generator) -> tuple[Rewrite, ...]:
    """Returns the rewrites that a generator's family has: all or none."""
    return get_args(Rewrite) if isinstance(generator, InceptionGenerator) else ()


def generator_model(
    generator: Generator,
    *,
    input_size: tuple[int, int],
    opset: int,
    rewrites: Collection[Rewrite],
    portable: bool = False,
    pixels: bool = False,
) -> onnx.ModelProto:
    """Returns a generator as an ONNX model, without metadata; the arguments are those of `export_generator`.

    The inception family also has a `portable` graph for one image of the input size, with values of 0 to 255 if they
    are `pixels`.
    """
    network, architecture = inference_copy(generator), generator.architecture
    if isinstance(network, InceptionGenerator):
        step = architecture.size_step
        sides = input_size if portable else (f"{step}*height", f"{step}*width")
        count = 1 if portable else "batch"
        return inception_model(
            network,
            opset=opset,
            rewrites=rewrites,
            inputs=(INPUT, (count, architecture.in_channels, *sides)),
            outputs=(OUTPUT, (count, architecture.out_channels, *sides)),
            pixels=pixels,
        )
    assert not rewrites and not portable, f"the family {architecture.family} has one graph"
    return _traced(network, input_size=input_size, opset=opset)


def _traced(network: Generator, *, input_size: tuple[int, int], opset: int) -> onnx.ModelProto:
    """Returns the model that torch's exporter makes, which takes seconds and knows every family."""
    architecture = network.architecture
    # Two images: the exporter takes a dimension of 1 for a constant.
    example_NCHW = torch.zeros(2, architecture.in_channels, *input_size)
    sizes: dict[int, Any] = {0: torch.export.Dim("batch")}
    if architecture.fixed_size is None:
        step = architecture.size_step
        sizes |= {2: step * torch.export.Dim("height"), 3: step * torch.export.Dim("width")}
    with torch.no_grad(), only_errors("torch.onnx", "onnxscript", "onnx_ir"):
        program = torch.onnx.export(
            network,
            (example_NCHW,),
            dynamo=True,
            opset_version=opset,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_shapes=(sizes,),
            verbose=False,
        )
    assert program is not None
    _remove_traces(program.model_proto)
    return program.model_proto


@contextlib.contextmanager
def only_errors(*names: str) -> Iterator[None]:
    """Silences what loggers of these names say but for errors; without a name, the root's."""
    loggers = [logging.getLogger(name) for name in names or (None,)]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _remove_traces(model: onnx.ModelProto) -> None:
    """Removes the exporter's notes on the origin of nodes: they are half of a small file and name local paths."""
    graph = model.graph
    for item in (model, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")


def shape_of(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    """Returns the shape of an input or output; a free size is a text."""
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
