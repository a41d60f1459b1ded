"""Makes files of less precision from an exported graph: INT8 with QDQ nodes, and float16.

Inputs and outputs stay float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx.helper import set_model_props
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.transformers.float16 import convert_float_to_float16

from components.catlib.config.student import Rewrite
from components.catlib.exporting.onnx_file import INPUT, OUTPUT, only_errors

INT8_REWRITES: tuple[Rewrite, ...] = ("output_phases", "merged_depthwise")
"""Rewrites that suit INT8: neither runtime has fast transposed convolutions of stride 1 in 8 bits."""

CONVOLUTIONS = ("Conv", "ConvTranspose")


def to_float16(model: onnx.ModelProto) -> onnx.ModelProto:
    """Returns a copy of a model whose weights and inner values are float16."""
    copied = onnx.ModelProto()
    copied.CopyFrom(model)
    halved = convert_float_to_float16(copied, keep_io_types=True)
    set_model_props(halved, {each.key: each.value for each in model.metadata_props})
    return halved


class Quantiser:
    """Makes INT8 files of one graph; the ranges of its values are measured once.

    Weights are int8, with a scale per output channel. What a ReLU makes is uint8 with zero point 0, all other values
    int8 with zero point 0: other zero points cost OpenVINO a subtraction per tensor. Values are quantised in front of
    reflection pads, which move a quarter of the bytes then.

    What a convolution makes stays in float until a ReLU or norm has seen it. A norm divides each channel by its own
    deviation, and one step for all channels is coarse where that is small (a trained student with instance norms: 32 dB
    with such steps, 46 dB without). Weights have 7 bits: sums of two products of 8 bits overflow 16 bits on processors
    without VNNI.

    Args:
        model: The graph, float32.
        calibration_NCHW: Images whose values give the ranges, float32.
        folder: A place for files that are no longer needed afterwards.
    """

    def __init__(self, model: onnx.ModelProto, calibration_NCHW: NDArray[np.float32], folder: Path) -> None:
        self._model, self._images = model, calibration_NCHW
        self._plain, self._made, self._ranges = (folder / name for name in ("plain.onnx", "made.onnx", "ranges.json"))
        onnx.save(model, self._plain)
        self._pads: dict[str, list[str]] = {}
        made_by = {node.output[0]: node for node in model.graph.node}
        readers: dict[str, int] = {}
        for node in model.graph.node:
            for name in node.input:
                readers[name] = readers.get(name, 0) + 1
        for node in model.graph.node:
            if node.op_type in CONVOLUTIONS:
                before = made_by.get(node.input[0])
                own = before is not None and before.op_type == "Pad" and readers[node.input[0]] == 1
                self._pads[node.name] = [before.name] if before is not None and own else []

    @property
    def layers(self) -> list[str]:
        """Names of the convolutions, in order."""
        return list(self._pads)

    def __call__(self, in_float: Collection[str] = ()) -> onnx.ModelProto:
        """Returns the INT8 model.

        Args:
            in_float: Layers that stay float32, with the pads that only they read.
        """
        signed = [{"quant_type": QuantType.QInt8, "symmetric": True}]
        values = [INPUT, *(node.output[0] for node in self._model.graph.node if node.op_type != "Relu")]
        with only_errors():  # no advice to prepare the model, which our graphs do not need: norms are folded already
            quantize_static(
                self._plain,  # the model itself would lose its weights to a file
                self._made,
                _Images(self._images),
                quant_format=QuantFormat.QDQ,
                op_types_to_quantize=[*CONVOLUTIONS, "Pad"],
                nodes_to_exclude=[name for layer in in_float for name in (layer, *self._pads[layer])],
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                calibration_cache_path=self._ranges,
                extra_options={
                    "TensorQuantOverrides": {name: signed for name in values if name != OUTPUT},
                    "OpTypesToExcludeOutputQuantization": [*CONVOLUTIONS],
                },
            )
        made = onnx.load(self._made)
        set_model_props(made, {each.key: each.value for each in self._model.metadata_props})
        return made


def layers_to_keep(
    layers: Sequence[str], decibels: Callable[[Collection[str]], float], *, wanted: float
) -> tuple[str, ...]:
    """Returns the layers that must stay in float so that an INT8 network is accurate enough.

    Each layer is quantised alone, which gives their order. Then the worst ones are put back, as few as suffice.

    Args:
        layers: Names of all layers.
        decibels: Layers that stay in float -> PSNR of the network against the one in float, in dB.
        wanted: The least PSNR in dB.
    """
    if decibels(()) >= wanted:
        return ()
    alone: Mapping[str, float] = {layer: decibels([each for each in layers if each != layer]) for layer in layers}
    worst_first = sorted(layers, key=lambda layer: alone[layer])
    low, high = 1, len(layers)
    while low < high:
        middle = (low + high) // 2
        if decibels(worst_first[:middle]) >= wanted:
            high = middle
        else:
            low = middle + 1
    return tuple(worst_first[:low])


class _Images(CalibrationDataReader):
    """Hands out images one by one."""

    def __init__(self, images_NCHW: NDArray[np.float32]) -> None:
        self._left = iter(images_NCHW)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        image = next(self._left, None)
        return None if image is None else {INPUT: image[None]}
