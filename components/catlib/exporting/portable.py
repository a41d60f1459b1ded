"""Reads the small ONNX graphs that the profiles of other programs are converted from.

They hold one image of a fixed size and nine operators, in the order in which they run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPERATORS = frozenset(
    {"Add", "Conv", "ConvTranspose", "InstanceNormalization", "LeakyRelu", "Mul", "Pad", "Relu", "Tanh"}
)
"""What these graphs consist of; Lens Studio's SnapML and every converter here know all of them."""


@dataclass(frozen=True)
class Node:
    """An operation of the graph.

    Attributes:
        operator: Name of the ONNX operator.
        name: Name of the tensor that it makes.
        inputs: Names of the tensors that it computes with; constants are left out.
        constants: Its constants, in order: weight and bias, scale and shift, a number, or widths of a pad.
        attributes: Its attributes, texts as `str`.
    """

    operator: str
    name: str
    inputs: tuple[str, ...]
    constants: tuple[np.ndarray, ...]
    attributes: dict[str, Any]

    @property
    def edge(self) -> int:
        """Pixels that a `Pad` adds on every side, or a convolution pads with zeros."""
        pads = self.constants[0].tolist()[2:4] * 2 if self.operator == "Pad" else self.attributes.get("pads", [0])
        assert len(set(pads)) == 1, self.name
        return int(pads[0])

    @property
    def stride(self) -> int:
        """Step of a convolution in pixels, the same in height and width."""
        (step,) = set(self.attributes.get("strides", [1]))
        return step

    @property
    def group(self) -> int:
        """Groups of a convolution: 1, or as many as channels."""
        return self.attributes.get("group", 1)


def read_nodes(model: onnx.ModelProto) -> list[Node]:
    """Returns the operations of a graph, all of which are among `OPERATORS`.

    Raises:
        RuntimeError: The graph holds another operator.
    """
    weights = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    nodes = [
        Node(
            operator=node.op_type,
            name=node.output[0],
            inputs=tuple(name for name in node.input if name not in weights),
            constants=tuple(weights[name] for name in node.input if name in weights),
            attributes={each.name: _value(each) for each in node.attribute},
        )
        for node in model.graph.node
    ]
    check_operators({node.operator for node in nodes})
    return nodes


def check_operators(found: set[str]) -> None:
    """Refuses a graph with other operators than `OPERATORS` (RuntimeError)."""
    if others := sorted(found - OPERATORS):
        raise RuntimeError(f"The graph holds {', '.join(others)}, which its profile does not allow.")


def _value(attribute: onnx.AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    return value.decode() if isinstance(value, bytes) else value
