"""Writes a portable graph as a LiteRT (TensorFlow Lite) file, reads it back, and runs it.

The file holds float32 numbers, images laid out as [1, H, W, C]. GPU delegates take all its operators: reflection is
slices put together, because some delegates have no reflecting pad; instance norm is means over height and width. Needs
the package `ai-edge-litert` (extra [litert]).

Shape suffixes: H height, W width, C channels, O outputs, I inputs, K kernel.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor

from components.catlib.exporting.portable import Node, read_nodes

OPERATORS = frozenset(
    {
        "ADD",
        "CONCATENATION",
        "CONV_2D",
        "DEPTHWISE_CONV_2D",
        "LEAKY_RELU",
        "MEAN",
        "MUL",
        "PAD",
        "RELU",
        "RSQRT",
        "SLICE",
        "SUB",
        "TANH",
        "TRANSPOSE_CONV",
    }
)
"""All operators that a file may hold."""

SCHEMA_VERSION = 3
ALIGNMENT = 16
"""Bytes at whose multiples the format wants constants to begin."""


def write_litert(model: onnx.ModelProto, path: Path) -> None:
    """Writes a portable graph with values of -1 to 1 as a `.tflite` file."""
    given, made = model.graph.input[0], model.graph.output[0]
    _, channels, height, width = (dim.dim_value for dim in given.type.tensor_type.shape.dim)
    writer = _Writer()
    tensors = {given.name: writer.tensor(given.name, (1, height, width, channels))}
    for node in read_nodes(model):
        tensors[node.name] = writer.node(node, [tensors[name] for name in node.inputs])
    path.write_bytes(writer.finish(tensors[given.name], tensors[made.name]))


class _Writer:
    """Adds operations to a file. Tensors are numbers, constants numpy arrays; the newest tensor is last."""

    def __init__(self) -> None:
        from ai_edge_litert import schema_py_generated as schema  # an extra  # pyright: ignore[reportMissingImports]

        self._schema = schema
        self._tensors: list[Any] = []
        self._buffers: list[Any] = [schema.BufferT()]  # the format wants the first one to be empty
        self._operators: list[Any] = []
        self._codes: list[tuple[str, int]] = []
        self._constants: dict[tuple[bytes, str, tuple[int, ...]], int] = {}

    def tensor(self, name: str, shape: Sequence[int], *, buffer: int = 0, whole: bool = False) -> int:
        """Adds a tensor of float32, or of whole numbers."""
        kind = self._schema.TensorType.INT32 if whole else self._schema.TensorType.FLOAT32
        self._tensors.append(self._schema.TensorT(shape=list(shape), type=kind, buffer=buffer, name=name))
        return len(self._tensors) - 1

    def constant(self, values: np.ndarray) -> int:
        """Adds a constant, float32 or int32; equal ones are kept once."""
        key = (values.tobytes(), values.dtype.str, values.shape)
        if key not in self._constants:
            self._buffers.append(self._schema.BufferT(data=np.frombuffer(values.tobytes(), np.uint8)))
            number = len(self._buffers) - 1
            whole = values.dtype == np.int32
            self._constants[key] = self.tensor(f"constant.{number}", values.shape, buffer=number, whole=whole)
        return self._constants[key]

    def shape(self, tensor: int) -> tuple[int, int, int, int]:
        """Returns the shape of a tensor, [N, H, W, C]."""
        return tuple(self._tensors[tensor].shape)

    def add(
        self,
        operator: str,
        inputs: Sequence[int | np.ndarray],
        shape: Sequence[int],
        *,
        name: str,
        version: int = 1,
        options: Any = None,
    ) -> int:
        """Adds an operation and returns the tensor of this shape that it makes."""
        code = (operator, version)
        if code not in self._codes:
            self._codes.append(code)
        made = self.tensor(name, shape)
        numbers = [self.constant(each) if isinstance(each, np.ndarray) else each for each in inputs]
        kind = "NONE" if options is None else type(options).__name__.removesuffix("T")
        self._operators.append(
            self._schema.OperatorT(
                opcodeIndex=self._codes.index(code),
                inputs=numbers,
                outputs=[made],
                builtinOptionsType=getattr(self._schema.BuiltinOptions, kind),
                builtinOptions=options,
            )
        )
        return made

    def node(self, node: Node, inputs: list[int]) -> int:
        """Adds an operation of the portable graph."""
        x, shape, schema = inputs[0], self.shape(inputs[0]), self._schema
        match node.operator:
            case "Add" | "Mul":
                options = schema.AddOptionsT() if node.operator == "Add" else schema.MulOptionsT()
                numbers = [*inputs, *(each.reshape(1, 1, 1, 1) for each in node.constants)]
                return self.add(node.operator.upper(), numbers, shape, name=node.name, options=options)
            case "Relu" | "Tanh":
                return self.add(node.operator.upper(), inputs, shape, name=node.name)
            case "LeakyRelu":
                options = schema.LeakyReluOptionsT(alpha=node.attributes["alpha"])
                return self.add("LEAKY_RELU", inputs, shape, name=node.name, options=options)
            case "Pad":
                return self._mirrored(x, node)
            case "InstanceNormalization":
                return self._norm(x, node)
            case "ConvTranspose":
                return self._transposed(x, node)
            case _:
                return self._convolution(x, node)

    def _mirrored(self, x: int, node: Node) -> int:
        """Adds rows and columns that repeat those inside: mirrored ones, or the outermost."""
        edge, mode = node.edge, node.attributes["mode"]
        assert mode in ("reflect", "edge"), mode
        options = self._schema.ConcatenationOptionsT
        for axis, word in ((1, "rows"), (2, "columns")):
            shape = self.shape(x)
            last = shape[axis] - 1
            before = range(edge, 0, -1) if mode == "reflect" else [0] * edge
            after = range(last - 1, last - 1 - edge, -1) if mode == "reflect" else [last] * edge
            parts = {
                line: self._line(x, axis, line, f"{node.name}.{word}") for line in dict.fromkeys([*before, *after])
            }
            lines = [*(parts[line] for line in before), x, *(parts[line] for line in after)]
            name = node.name if axis == 2 else f"{node.name}.{word}"
            x = self.add("CONCATENATION", lines, _resized(shape, axis, shape[axis] + 2 * edge), name=name,
                         options=options(axis=axis))  # fmt: skip
        return x

    def _line(self, x: int, axis: int, line: int, name: str) -> int:
        shape = _resized(self.shape(x), axis, 1)
        begin = np.array(_resized((0, 0, 0, 0), axis, line), np.int32)
        return self.add("SLICE", [x, begin, np.array(shape, np.int32)], shape, name=f"{name}.{line}")

    def _convolution(self, x: int, node: Node) -> int:
        weight_OIKK, edge, stride, schema = node.constants[0], node.edge, node.stride, self._schema
        count, k = weight_OIKK.shape[0], weight_OIKK.shape[-1]
        bias = node.constants[1] if len(node.constants) > 1 else np.zeros(count, np.float32)
        if edge:
            widths = np.array([[0, 0], [edge, edge], [edge, edge], [0, 0]], np.int32)
            _, height, width, channels = self.shape(x)
            padded = (1, height + 2 * edge, width + 2 * edge, channels)
            x = self.add("PAD", [x, widths], padded, name=f"{node.name}.zeros")
        _, height, width, _ = self.shape(x)
        shape = (1, (height - k) // stride + 1, (width - k) // stride + 1, count)
        settings = {"padding": schema.Padding.VALID, "strideW": stride, "strideH": stride}
        if node.group == 1:
            weight, options = weight_OIKK.transpose(0, 2, 3, 1), schema.Conv2DOptionsT(**settings)
            return self.add("CONV_2D", [x, weight, bias], shape, name=node.name, options=options)
        weight = weight_OIKK.transpose(1, 2, 3, 0)
        options = schema.DepthwiseConv2DOptionsT(**settings, depthMultiplier=1)
        return self.add("DEPTHWISE_CONV_2D", [x, weight, bias], shape, name=node.name, options=options)

    def _transposed(self, x: int, node: Node) -> int:
        """Adds a transposed convolution; `edge` pixels are cut off at the top and left, fewer at the other ends."""
        weight_IOKK, edge, stride, schema = node.constants[0], node.edge, node.stride, self._schema
        count, k = weight_IOKK.shape[1], weight_IOKK.shape[-1]
        (added,) = set(node.attributes["output_padding"])
        _, height, width, _ = self.shape(x)
        whole = (1, (height - 1) * stride + k, (width - 1) * stride + k, count)
        bias = list(node.constants[1:])
        options = schema.TransposeConvOptionsT(padding=schema.Padding.VALID, strideW=stride, strideH=stride)
        x = self.add(
            "TRANSPOSE_CONV",
            [np.array(whole, np.int32), weight_IOKK.transpose(1, 2, 3, 0), x, *bias],
            whole,
            name=f"{node.name}.whole",
            version=3 if bias else 1,
            options=options,
        )
        shape = (1, whole[1] - 2 * edge + added, whole[2] - 2 * edge + added, count)
        begin = np.array([0, edge, edge, 0], np.int32)
        return self.add("SLICE", [x, begin, np.array(shape, np.int32)], shape, name=node.name)

    def _norm(self, x: int, node: Node) -> int:
        """Adds y = (x - mean) · (scale · rsqrt(variance + ε)) + shift."""
        scale, shift = (each.reshape(1, 1, 1, -1) for each in node.constants)
        shape = self.shape(x)
        one = (1, 1, 1, shape[3])
        centred = self.add("SUB", [x, self._mean(x, f"{node.name}.mean")], shape, name=f"{node.name}.centred",
                           options=self._schema.SubOptionsT())  # fmt: skip

        def product(first: int | np.ndarray, second: int | np.ndarray, shape: Sequence[int], name: str) -> int:
            options = self._schema.MulOptionsT()
            return self.add("MUL", [first, second], shape, name=f"{node.name}.{name}", options=options)

        variance = self._mean(product(centred, centred, shape, "squares"), f"{node.name}.variance")
        epsilon = np.full((1, 1, 1, 1), node.attributes["epsilon"], np.float32)
        total = self.add("ADD", [variance, epsilon], one, name=f"{node.name}.sum", options=self._schema.AddOptionsT())
        factor = product(self.add("RSQRT", [total], one, name=f"{node.name}.root"), scale, one, "factor")
        return self.add("ADD", [product(centred, factor, shape, "scaled"), shift], shape, name=node.name,
                        options=self._schema.AddOptionsT())  # fmt: skip

    def _mean(self, x: int, name: str) -> int:
        """Adds the mean over height and width."""
        options = self._schema.ReducerOptionsT(keepDims=True)
        return self.add(
            "MEAN", [x, np.array([1, 2], np.int32)], (1, 1, 1, self.shape(x)[3]), name=name, options=options
        )

    def finish(self, given: int, made: int) -> bytes:
        """Returns the file, whose input and output are these tensors."""
        schema = self._schema
        codes = [(getattr(schema.BuiltinOperator, operator), version) for operator, version in self._codes]
        graph = schema.SubGraphT(
            tensors=self._tensors, inputs=[given], outputs=[made], operators=self._operators, name="generator"
        )
        model = schema.ModelT(
            version=SCHEMA_VERSION,
            operatorCodes=[
                schema.OperatorCodeT(deprecatedBuiltinCode=min(code, 127), builtinCode=code, version=version)
                for code, version in codes
            ],
            subgraphs=[graph],
            description="generator",
            buffers=self._buffers,
        )
        builder = _aligned_builder()
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


def _aligned_builder() -> Any:
    import flatbuffers  # comes with ai-edge-litert

    class Aligned(flatbuffers.Builder):
        def CreateNumpyVector(self, x: np.ndarray) -> int:  # noqa: N802
            """Adds an array that begins at a multiple of 16 bytes."""
            self.StartVector(x.itemsize, x.size, ALIGNMENT)
            self.head -= x.nbytes
            self.Bytes[self.head : self.head + x.nbytes] = x.tobytes()
            return self.EndVector()

    return Aligned(1024)


def _resized(shape: Sequence[int], axis: int, size: int) -> tuple[int, ...]:
    return (*shape[:axis], size, *shape[axis + 1 :])


class LiteRTGenerator:
    """A `.tflite` file run by LiteRT's interpreter on the CPU.

    Attributes:
        operators: Names of its operators, one per operation.
        shapes: Shapes of its input and output, [1, H, W, C].
        types: Types of the numbers of both.
    """

    def __init__(self, path: Path) -> None:
        from ai_edge_litert.interpreter import (  # an extra  # pyright: ignore[reportMissingImports]
            Interpreter,
            OpResolverType,
        )

        # Without delegates: the operators of the file itself, which one of them would gather in its own.
        resolver = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        self._interpreter = Interpreter(model_path=str(path), experimental_op_resolver_type=resolver)
        self._interpreter.allocate_tensors()
        (self._given,) = self._interpreter.get_input_details()
        (self._made,) = self._interpreter.get_output_details()
        self.operators = [each["op_name"] for each in self._interpreter._get_ops_details()]
        ends = (self._given, self._made)
        self.shapes = [tuple(map(int, each["shape_signature"])) for each in ends]
        self.types = [np.dtype(each["dtype"]).name for each in ends]

    def __call__(self, images_NCHW: Tensor) -> Tensor:
        """Translates float32 images [N, C, H, W] to images [N, C', H, W], both in [-1, 1], one by one."""
        made = []
        for image in images_NCHW.numpy():
            self._interpreter.set_tensor(self._given["index"], np.ascontiguousarray(image.transpose(1, 2, 0))[None])
            self._interpreter.invoke()
            made.append(self._interpreter.get_tensor(self._made["index"]).transpose(0, 3, 1, 2))
        return torch.from_numpy(np.concatenate(made))
