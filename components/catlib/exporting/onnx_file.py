"""Writes a generator as an ONNX file.

Shape suffixes: N images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

import collections
import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
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
    """
    model = generator_model(generator, input_size=input_size, opset=opset, rewrites=rewrites)
    set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)
    written = next(item.version for item in model.opset_import if not item.domain)
    assert written == opset, f"the file has opset {written}, not {opset}"
    return OnnxModel(
        path=path,
        opset=written,
        input_shape=_shape(model.graph.input[0]),
        output_shape=_shape(model.graph.output[0]),
        operators=dict(sorted(collections.Counter(node.op_type for node in model.graph.node).items())),
    )


def family_rewrites(generator: Generator) -> tuple[Rewrite, ...]:
    """Returns the rewrites that a generator's family has: all or none."""
    return get_args(Rewrite) if isinstance(generator, InceptionGenerator) else ()


def generator_model(
    generator: Generator, *, input_size: tuple[int, int], opset: int, rewrites: Collection[Rewrite]
) -> onnx.ModelProto:
    """Returns a generator as an ONNX model, without metadata; the arguments are those of `export_generator`."""
    network, architecture = inference_copy(generator), generator.architecture
    if isinstance(network, InceptionGenerator):
        sides = (f"{architecture.size_step}*height", f"{architecture.size_step}*width")
        return inception_model(
            network,
            opset=opset,
            rewrites=rewrites,
            inputs=(INPUT, ("batch", architecture.in_channels, *sides)),
            outputs=(OUTPUT, ("batch", architecture.out_channels, *sides)),
        )
    assert not rewrites, f"the family {architecture.family} has no rewrites"
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
    with torch.no_grad(), _quiet_exporter():
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
def _quiet_exporter() -> Iterator[None]:
    """Silences the exporter's messages about its optimisation passes."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
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


def _shape(value: onnx.ValueInfoProto) -> tuple[int | str, ...]:
    return tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
