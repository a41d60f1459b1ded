"""The ONNX graph of an inception generator, written from its weights; rewrites choose other, equal nodes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from typing import Any

import numpy as np
import onnx

from components.catlib.config.student import Rewrite
from components.catlib.exporting.graph import Graph, Shape
from components.catlib.exporting.inception_weights import Block, Convolution, Norm, Residual, read_weights
from components.catlib.exporting.rewriting import (
    BLOCK,
    PHASES,
    flipped,
    input_parts,
    merge_depthwise,
    output_phases,
    pad_channels,
    pays_transposed,
)
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.inception.generator import InceptionGenerator

HALF = 127.5
"""Half of the largest value of a pixel."""


def inception_model(
    network: InceptionGenerator,
    *,
    opset: int,
    rewrites: Collection[Rewrite],
    inputs: tuple[str, Shape],
    outputs: tuple[str, Shape],
    pixels: bool = False,
) -> onnx.ModelProto:
    """Writes a generator as an ONNX model.

    Args:
        network: The network; norms with running statistics are folded (`inference_copy`).
        opset: Version of the ONNX operator set, 11 or newer; 18 for `output_phases` and statistics of the batch.
        rewrites: The rewrites to use.
        inputs: Name and shape of the input; a free size is a text.
        outputs: The same of the output.
        pixels: Whether values of images are 0 to 255 outside the graph, instead of -1 to 1.
    """
    architecture = network.architecture
    assert isinstance(architecture, InceptionArchitecture)
    weights = read_weights(network)
    if "merged_depthwise" in rewrites:
        weights = merge_depthwise(weights, architecture.activation)
    if "padded_channels" in rewrites:
        weights = pad_channels(weights, transposed=architecture.upsample == "transposed")
    writer = _Writer(Graph(opset), architecture, rewrites)
    first, *down = weights.down
    x = writer.linear(inputs[0], 1 / HALF, -1.0, name="scaled") if pixels else inputs[0]
    x = writer.graph.pad(x, first.kernel_size // 2, "reflect", name="down_sampling.0")
    x = writer.relu(writer.convolution(x, first))
    for convolution in down:
        x = writer.relu(writer.convolution(x, convolution, strides=[2, 2], pads=[1] * 4))
    for block in weights.blocks:
        x = writer.block(x, block)
    for convolution in weights.up:
        x = writer.relu(writer.upsampled(x, convolution))
    x = writer.graph.pad(x, weights.last.kernel_size // 2, "reflect", name="up_sampling.6")
    x = writer.graph.add("Tanh", writer.last(x, weights.last), name="up_sampling.8")
    if pixels:
        x = writer.linear(x, HALF, HALF, name="pixels")
    return writer.graph.model(result=x, inputs=inputs, outputs=outputs)


class _Writer:
    """Adds the parts of a network to a graph; every method returns the name of the tensor that it makes."""

    def __init__(self, graph: Graph, architecture: InceptionArchitecture, rewrites: Collection[Rewrite]) -> None:
        self.graph = graph
        self._architecture = architecture
        self._rewrites = rewrites

    def convolution(self, x: str, convolution: Convolution, **attributes: Any) -> str:
        """Adds a convolution and its norm."""
        name = convolution.name
        x = self.graph.conv(x, convolution.weight, convolution.bias, name=name, **attributes)
        return x if convolution.norm is None else self._norm(x, convolution.norm, f"{name}.norm")

    def upsampled(self, x: str, convolution: Convolution) -> str:
        """Adds a layer that doubles the size, and its norm."""
        name = convolution.name
        match self._architecture.upsample:
            case "transposed":
                return self.convolution(
                    x, convolution, operator="ConvTranspose", strides=[2, 2], pads=[1] * 4, output_padding=[1, 1]
                )
            case "resize":
                return self.convolution(self.graph.repeat_pixels(x, name=f"{name}.resized"), convolution, pads=[1] * 4)
            case "subpixel":
                x = self.convolution(x, replace(convolution, norm=None), pads=[1] * 4)
                x = self.graph.add("DepthToSpace", x, name=f"{name}.shuffle", blocksize=2, mode="CRD")
                return x if convolution.norm is None else self._norm(x, convolution.norm, f"{name}.norm")

    def _norm(self, x: str, norm: Norm, name: str) -> str:
        add, constant = self.graph.add, self.graph.constant
        if norm.over == "image":
            scale, shift = constant(f"{name}.scale", norm.scale), constant(f"{name}.shift", norm.shift)
            return add("InstanceNormalization", x, scale, shift, name=name, epsilon=norm.epsilon)
        # ONNX Runtime's BatchNormalization computes no statistics.
        scale, shift = (constant(f"{name}.{part}", getattr(norm, part)[:, None, None]) for part in ("scale", "shift"))
        axes = constant("axes", np.array([0, 2, 3], np.int64))
        epsilon = constant("epsilon", np.array(norm.epsilon, np.float32))
        centred = add("Sub", x, add("ReduceMean", x, axes, name=f"{name}.mean"), name=f"{name}.centred")
        squares = add("Mul", centred, centred, name=f"{name}.squares")
        variance = add("Add", add("ReduceMean", squares, axes, name=f"{name}.variance"), epsilon, name=f"{name}.sum")
        normed = add("Div", centred, add("Sqrt", variance, name=f"{name}.deviation"), name=f"{name}.normed")
        return add("Add", add("Mul", normed, scale, name=f"{name}.scaled"), shift, name=name)

    def linear(self, x: str, scale: float, shift: float, *, name: str) -> str:
        """Adds y = scale · x + shift."""
        scale_name, shift_name = (
            self.graph.constant(f"{name}.{part}", np.array(value, np.float32))
            for part, value in (("scale", scale), ("shift", shift))
        )
        return self.graph.add(
            "Add", self.graph.add("Mul", x, scale_name, name=f"{name}.product"), shift_name, name=name
        )

    def relu(self, x: str) -> str:
        return self.graph.add("Relu", x, name=f"{x}.activated")

    def block(self, x: str, block: Block) -> str:
        """Adds y = x + norm(Σ branches(x))."""
        transposed = [
            each.first
            for each in block.residuals
            if "transposed_branches" in self._rewrites and pays_transposed(each.first)
        ]
        shared = self._shared_pad(x, block, transposed) if "shared_padding" in self._rewrites else None
        branches = []
        for each in block.residuals:
            hidden = self._transposed(x, each, shared) if each.first in transposed else self._same_size(x, each.first)
            branches.append(self._same_size(self._activation(hidden), each.out))
        for each in block.depthwises:
            hidden = self._activation(self._same_size(x, each.first))
            hidden = self._same_size(hidden, each.depthwise, group=each.depthwise.weight.shape[0])
            branches.append(self._same_size(self._activation(hidden), each.out))
        total, *others = branches
        for number, branch in enumerate(others, 1):
            total = self.graph.add("Add", total, branch, name=f"{block.name}.sum.{number}")
        if block.norm is not None:
            total = self._norm(total, block.norm, f"{block.name}.pw_bn")
        return self.graph.add("Add", x, total, name=block.name)

    def _activation(self, x: str) -> str:
        if self._architecture.activation == "relu":
            return self.relu(x)
        return self.graph.add("LeakyRelu", x, name=f"{x}.activated", alpha=0.01)

    def _same_size(self, x: str, convolution: Convolution, *, group: int = 1) -> str:
        """Adds a convolution that keeps the size, with the architecture's padding."""
        edge, mode = convolution.kernel_size // 2, self._architecture.padding
        if mode == "zero":
            return self.convolution(x, convolution, group=group, pads=[edge] * 4)
        return self.convolution(self._padded(x, edge, convolution.name), convolution, group=group)

    def _padded(self, x: str, edge: int, name: str) -> str:
        return self.graph.pad(x, edge, self._architecture.padding, name=f"{name}.pad") if edge else x

    def _shared_pad(self, x: str, block: Block, transposed: list[Convolution]) -> tuple[str, int] | None:
        """Pads x once for all transposed convolutions; returns the tensor and the edge's width in pixels.

        A convolution with a smaller kernel cuts off the pixels that it does not need together with those of `flipped`.
        """
        if len(transposed) < 2 or self._architecture.padding == "zero":
            return None
        edge = max(each.kernel_size // 2 for each in transposed)
        return self._padded(x, edge, block.name), edge

    def _transposed(self, x: str, branch: Residual, shared: tuple[str, int] | None) -> str:
        """Adds the first convolution of a branch as a transposed one (`flipped`)."""
        first, k = branch.first, branch.first.kernel_size
        if self._architecture.padding == "zero":
            source, edge = x, 0
        else:
            source, edge = shared or (self._padded(x, k // 2, first.name), k // 2)
        cut = k - 1 + edge - k // 2
        whole = Convolution(first.name, flipped(first.weight), first.bias, first.norm)
        return self.convolution(source, whole, operator="ConvTranspose", pads=[cut] * 4)

    def last(self, x: str, convolution: Convolution) -> str:
        """Adds the last convolution, on a padded x."""
        weight, bias = convolution.weight, convolution.bias
        if "output_phases" not in self._rewrites or weight.shape[0] >= BLOCK or bias is None:
            return self.convolution(x, convolution)
        return in_phases(self.graph, x, weight, bias, name=convolution.name)


def in_phases(graph: Graph, x: str, weight_OIKK: np.ndarray, bias_O: np.ndarray, *, name: str) -> str:
    """Adds a convolution with the rewrite `output_phases`; returns the name of its output."""
    weight, bias, parts = output_phases(weight_OIKK), np.repeat(bias_O, PHASES**2), input_parts(weight_OIKK.shape[1])
    sources = graph.split(x, parts, name=f"{name}.parts") if len(parts) > 1 else [x]
    total, start = "", 0
    for number, (source, count) in enumerate(zip(sources, parts, strict=True)):
        read, kept = weight[:, start : start + count], None if number else bias
        made = graph.conv(source, read, kept, name=f"{name}.{number}", strides=[PHASES] * 2)
        total = graph.add("Add", total, made, name=f"{name}.sum") if number else made
        start += count
    return graph.add("DepthToSpace", total, name=f"{name}.shuffle", blocksize=PHASES, mode="CRD")
