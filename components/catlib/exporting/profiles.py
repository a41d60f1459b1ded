"""Further forms of an exported generator for other programs, each checked against the student.

Every form comes from the graph that `inception_model` writes; Core ML and LiteRT files are converted from it operation
by operation. All take one image of the size that the student was trained for. docs/operations.md has the rules.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
import torch
from onnx.tools.update_model_dims import update_inputs_outputs_dims
from torch import Tensor

from components.catlib.config.student import Profile, Rewrite
from components.catlib.exporting import coreml, litert, portable
from components.catlib.exporting.inception_graph import HALF
from components.catlib.exporting.onnx_file import (
    INPUT,
    OUTPUT,
    count_operators,
    generator_model,
    read_checked,
    shape_of,
    write_model,
)
from components.catlib.exporting.parity import OnnxGenerator
from components.catlib.exporting.profile_rules import COLOURS, WITH_PIXELS
from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.generator import Generator

logger = logging.getLogger(__name__)

FILES: dict[Profile, str] = {
    "static": "model.static.onnx",
    "snapml": "model.snapml.onnx",
    "coreml": "model.mlpackage",
    "litert": "model.tflite",
}
"""Names of the files beside `model.onnx`; a Core ML package is a folder."""

SNAPML_OPSET, SNAPML_IR_VERSION = 11, 6
"""What Lens Studio reads."""

PORTABLE_REWRITES: tuple[Rewrite, ...] = ("merged_depthwise",)
"""The rewrite that makes fewer operations of the same kinds."""


@dataclass(frozen=True)
class Student:
    """The generator that files are made of and compared with.

    Attributes:
        generator: The network, on the CPU.
        input_size: Height and width in pixels of the images it is made for.
        images: Inputs to compare on, float32 [N, C, H, W] of that size, in [-1, 1] or planes of 0 and 1.
        opset: Operator set of `model.onnx`.
        metadata: Texts kept in `model.onnx`.
    """

    generator: Generator
    input_size: tuple[int, int]
    images: Tensor
    opset: int
    metadata: Mapping[str, str]

    def graph(self, *, pixels: bool) -> onnx.ModelProto:
        """Returns the portable graph."""
        return generator_model(
            self.generator,
            input_size=self.input_size,
            opset=SNAPML_OPSET,
            rewrites=PORTABLE_REWRITES,
            portable=True,
            pixels=pixels,
        )


@dataclass(frozen=True)
class Written:
    """A file that was read back.

    Attributes:
        run: Translates float32 images [1, C, H, W] to [1, C', H, W], in the file's values.
        facts: What stands about it in `export.json`.
    """

    run: Callable[[Tensor], Tensor]
    facts: dict[str, Any]


def write_profiles(
    folder: Path, wanted: Collection[Profile], student: Student, *, tolerance: float
) -> dict[str, dict[str, Any]]:
    """Writes the files of the wanted profiles beside `model.onnx`, and compares them with the student.

    Args:
        folder: Where `model.onnx` is.
        wanted: The recipe's `export.profiles`.
        student: What they are made of.
        tolerance: Largest allowed difference, for images in [-1, 1].

    Returns:
        Per profile the JSON values for `export.json`.

    Raises:
        RuntimeError: A file lacks what its profile promises, or computes other images than PyTorch.
    """
    with torch.no_grad():
        expected = student.generator.eval()(student.images)
    made = {}
    for profile, name in FILES.items():
        if profile not in wanted:
            continue
        path = folder / name
        WRITERS[profile](path, student)
        written = read_profile(profile, path, student)
        difference = _difference(written, profile in WITH_PIXELS, student.images, expected)
        if not difference <= tolerance:  # NaN too
            raise RuntimeError(
                f"{name} differs from PyTorch by up to {difference:.2e}, more than export.tolerance {tolerance:g} "
                f"allows; take {profile} out of export.profiles."
            )
        size = sum(each.stat().st_size for each in ([path] if path.is_file() else path.rglob("*")) if each.is_file())
        made[profile] = {"file": name, "bytes": size} | written.facts
        made[profile]["parity"] = {"largest_difference": difference, "tolerance": tolerance}
        logger.info("%s: %.2f MB, differs from PyTorch by at most %.1e", name, size / 1e6, difference)
    return made


def _difference(written: Written, pixels: bool, images_NCHW: Tensor, expected_NCHW: Tensor) -> float:
    """Returns the largest difference, for images in [-1, 1]."""
    given = (images_NCHW + 1) * HALF if pixels else images_NCHW
    made = torch.cat([written.run(image[None]) for image in given])
    if made.shape != expected_NCHW.shape:
        return float("inf")
    return ((made / HALF - 1 if pixels else made) - expected_NCHW).abs().max().item()


def _write_static(path: Path, student: Student) -> None:
    model = onnx.load(path.with_name("model.onnx"))
    del model.graph.value_info[:]
    ends = [*model.graph.input, *model.graph.output]
    sizes = {end.name: [1, shape_of(end)[1], *student.input_size] for end in ends}
    model = update_inputs_outputs_dims(model, {INPUT: sizes[INPUT]}, {OUTPUT: sizes[OUTPUT]})
    height, width = student.input_size
    write_model(model, path, opset=student.opset, metadata={**student.metadata, "fixed_size": f"[{height}, {width}]"})


def _write_snapml(path: Path, student: Student) -> None:
    write_model(student.graph(pixels=True), path, opset=SNAPML_OPSET, metadata=_described(student))


def _write_coreml(path: Path, student: Student) -> None:
    coreml.write_coreml(student.graph(pixels=True), path, _described(student))


def _described(student: Student) -> dict[str, str]:
    """Returns the texts that still hold where values are 0 to 255; `translate` refuses such a file."""
    kept = {name: student.metadata[name] for name in ("name", "student", "dataset") if name in student.metadata}
    return {"profile": "pixels", **kept}


WRITERS: dict[Profile, Callable[[Path, Student], None]] = {
    "static": _write_static,
    "snapml": _write_snapml,
    "coreml": _write_coreml,
    "litert": lambda path, student: litert.write_litert(student.graph(pixels=False), path),
}


def read_profile(profile: Profile, path: Path, student: Student) -> Written:
    """Reads a file back, and checks that it is what its profile promises.

    Raises:
        RuntimeError: It is not; the message names what differs.
    """
    architecture = student.generator.architecture
    shapes = [(1, count, *student.input_size) for count in (architecture.in_channels, architecture.out_channels)]
    if profile == "coreml":
        return _read_coreml(path, shapes)
    if profile == "litert":
        return _read_litert(path, shapes)
    opset = SNAPML_OPSET if profile == "snapml" else student.opset
    model = read_checked(path, opset=opset)
    ends = [*model.graph.input, *model.graph.output]
    _hold(path, "ends", [each.name for each in ends], [INPUT, OUTPUT])
    _hold(path, "shapes", [shape_of(each) for each in ends], shapes)
    _hold(path, "types", [each.type.tensor_type.elem_type for each in ends], [onnx.TensorProto.FLOAT] * 2)
    operators = [node.op_type for node in model.graph.node]
    if profile == "snapml":
        _hold(path, "IR version", model.ir_version, SNAPML_IR_VERSION)
        portable.check_operators(set(operators))
    return Written(
        OnnxGenerator(path),
        {"opset": opset, "ir_version": model.ir_version}
        | _facts(operators, "ONNX Runtime", shapes, "0 to 255" if profile == "snapml" else _numbers(architecture)),
    )


def _read_coreml(path: Path, shapes: Sequence[tuple[int, ...]]) -> Written:
    program = coreml.CoreMLProgram(path)
    pictures = {
        name: ("imageType", COLOURS[count], height, width)
        for name, (_, count, height, width) in zip((INPUT, OUTPUT), shapes, strict=True)
    }
    _hold(path, "input and output", program.ends, pictures)
    _hold(path, "further operations", sorted(set(program.operators) - coreml.OPERATORS), [])
    facts = {"specification": program.version, "oldest_system": coreml.OLDEST_SYSTEM, "ends": "pictures"}
    checked = "PyTorch, which computes the program as saved; Core ML itself runs on Apple's systems alone"
    return Written(program, facts | _facts(program.operators, checked, shapes, "0 to 255"))


def _read_litert(path: Path, shapes: Sequence[tuple[int, ...]]) -> Written:
    run = litert.LiteRTGenerator(path)
    last = [(count, *sides, channels) for count, channels, *sides in shapes]
    _hold(path, "shapes", run.shapes, last)
    _hold(path, "types", run.types, ["float32"] * 2)
    _hold(path, "further operators", sorted(set(run.operators) - litert.OPERATORS), [])
    return Written(run, {"layout": "NHWC"} | _facts(run.operators, "LiteRT on the CPU", last, "-1 to 1"))


def _hold(path: Path, what: str, found: Any, expected: Any) -> None:
    if found != expected:
        raise RuntimeError(f"{path.name} has other {what} than its profile promises: {found}, not {expected}.")


def _facts(operators: Sequence[str], checked: str, shapes: Sequence[Sequence[int]], values: str) -> dict[str, Any]:
    given, made = shapes
    return {
        "operators": count_operators(operators),
        "input": {"name": INPUT, "shape": list(given), "values": values},
        "output": {"name": OUTPUT, "shape": list(made), "values": "-1 to 1" if values == "0 or 1" else values},
        "checked_with": checked,
    }


def _numbers(architecture: GeneratorArchitecture) -> str:
    return "0 or 1" if architecture.input_kind == "labels" else "-1 to 1"
