"""Writes ONNX graphs node by node. Tensors are names; weights are numpy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Shape = tuple[int | str, ...]
PAD_MODES = {"reflect": "reflect", "replicate": "edge"}


class Graph:
    """An ONNX graph under construction; every method adds nodes and returns the name of the tensor that they make.

    Args:
        opset: Version of the standard operator set, 11 or newer; batch statistics and `split` need 18.
    """

    def __init__(self, opset: int) -> None:
        self.opset = opset
        self._nodes: list[onnx.NodeProto] = []
        self._names: set[str] = set()
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], onnx.TensorProto] = {}

    def add(self, operator: str, *inputs: str, name: str, **attributes: Any) -> str:
        """Adds a node with one output, which bears the node's name."""
        return self._add(operator, inputs, [name], name=name, **attributes)[0]

    def _add(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], *, name: str, **attributes: Any
    ) -> Sequence[str]:
        assert self._names.isdisjoint(outputs), f"{name} would make a tensor that exists"
        self._names.update(outputs)
        self._nodes.append(helper.make_node(operator, inputs, outputs, name=name, **attributes))
        return outputs

    def constant(self, name: str, values: np.ndarray) -> str:
        """Adds an initialiser, float32 or int64; equal arrays are kept once."""
        key = (values.tobytes(), values.dtype.str, values.shape)
        if key not in self._constants:
            self._constants[key] = numpy_helper.from_array(np.ascontiguousarray(values), name)
        return self._constants[key].name

    def conv(
        self,
        x: str,
        weight: np.ndarray,
        bias: np.ndarray | None,
        *,
        name: str,
        operator: Literal["Conv", "ConvTranspose"] = "Conv",
        **attributes: Any,
    ) -> str:
        """Adds a convolution or a transposed one, with weights laid out as in torch and ONNX alike.

        Args:
            x: The input [N, C, H, W].
            weight: float32 [out, in / groups, k, k]; of a transposed convolution [in, out / groups, k, k].
            bias: float32 [out], or None.
            name: Name of the node.
            operator: Kind of convolution.
            attributes: Further attributes, such as `strides`; `pads` are 0 unless given.
        """
        constants = [self.constant(f"{name}.weight", weight)]
        if bias is not None:
            constants.append(self.constant(f"{name}.bias", bias))
        return self.add(operator, x, *constants, name=name, kernel_shape=list(weight.shape[2:]), **attributes)

    def pad(self, x: str, width: int, mode: str, *, name: str) -> str:
        """Adds pixels on all four sides of [N, C, H, W]; `mode` is "reflect" or "replicate"."""
        pads = self.constant(f"pads_{width}", np.array([0, 0, width, width] * 2, np.int64))
        return self.add("Pad", x, pads, name=name, mode=PAD_MODES[mode])

    def repeat_pixels(self, x: str, *, name: str) -> str:
        """Repeats every pixel of [N, C, H, W] 2x2 times."""
        scales = self.constant("twice_as_large", np.array([1, 1, 2, 2], np.float32))
        return self.add(
            "Resize", x, "", scales, name=name, mode="nearest", nearest_mode="floor",
            coordinate_transformation_mode="asymmetric",
        )  # fmt: skip

    def split(self, x: str, channels: Sequence[int], *, name: str) -> Sequence[str]:
        """Cuts [N, C, H, W] into tensors of these numbers of channels, in order."""
        parts = [f"{name}.{number}" for number in range(len(channels))]
        return self._add("Split", [x, self.constant(f"{name}.channels", np.array(channels, np.int64))], parts,
                         name=name, axis=1)  # fmt: skip

    def model(self, *, result: str, inputs: tuple[str, Shape], outputs: tuple[str, Shape]) -> onnx.ModelProto:
        """Returns the model; the tensor `result` becomes its output.

        Args:
            result: The tensor that the model returns; it was made by the newest node.
            inputs: Name and shape of the input, float32; a free size is a text.
            outputs: The same of the output.
        """
        assert self._nodes[-1].output[0] == result
        self._nodes[-1].output[0] = outputs[0]
        graph = helper.make_graph(
            self._nodes,
            "generator",
            [helper.make_tensor_value_info(inputs[0], TensorProto.FLOAT, inputs[1])],
            [helper.make_tensor_value_info(outputs[0], TensorProto.FLOAT, outputs[1])],
            list(self._constants.values()),
        )
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
