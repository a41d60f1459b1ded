"""Small changes to ONNX models that make their images wrong, for tests that such files are caught."""

import onnx
from onnx import numpy_helper


def change_weight(model: onnx.ModelProto) -> None:
    """Adds 0.1 to one weight of a depthwise branch."""
    weight = next(each for each in model.graph.initializer if "dw_ops" in each.name and each.name.endswith("weight"))
    values = numpy_helper.to_array(weight).copy()
    values.flat[0] += 0.1
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))


def change_norm(model: onnx.ModelProto) -> None:
    """Changes the epsilon of the first instance norm."""
    norm = next(node for node in model.graph.node if node.op_type == "InstanceNormalization")
    next(each for each in norm.attribute if each.name == "epsilon").f = 0.1


def change_pad(model: onnx.ModelProto) -> None:
    """Changes how the last convolution pads."""
    pad = [node for node in model.graph.node if node.op_type == "Pad"][-1]
    next(each for each in pad.attribute if each.name == "mode").s = b"edge"
