"""Programs that run exported files on the CPU: ONNX Runtime, and OpenVINO where its extra is installed."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from components.catlib.exporting.onnx_file import INPUT
from components.catlib.exporting.parity import OnnxGenerator

Run = Callable[[Tensor], Tensor]
"""Translates float32 images [N, C, H, W] to images [N, C', H, W], both in [-1, 1]."""

INSTALL_OPENVINO = (
    "OpenVINO is not installed; `pip install --require-hashes --no-deps --requirement requirements-openvino.lock` adds "
    "its rows."
)


@dataclass(frozen=True)
class Runtime:
    """A program that runs ONNX files.

    Attributes:
        name: Its name.
        load: Loads a file for a number of threads; raises an exception of its own if it cannot.
    """

    name: str
    load: Callable[[Path, int], Run]


def installed_runtimes() -> list[Runtime]:
    """Returns the runtimes that can be imported, ONNX Runtime first."""
    runtimes = [Runtime("ONNX Runtime", lambda path, threads: OnnxGenerator(path, threads=threads))]
    if importlib.util.find_spec("openvino") is not None:
        runtimes.append(Runtime("OpenVINO", _load_openvino))
    return runtimes


def _load_openvino(path: Path, threads: int) -> Run:
    import openvino  # an extra  # pyright: ignore[reportMissingImports]

    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": "1",
        "PERFORMANCE_HINT": "LATENCY",
        "ENABLE_CPU_PINNING": False,  # a core that is pinned may be one that others use
        "INFERENCE_PRECISION_HINT": "f32",  # else some processors compute in bfloat16
    }
    request = core.compile_model(core.read_model(path), "CPU", settings).create_infer_request()

    def run(images_NCHW: Tensor) -> Tensor:
        made = request.infer({INPUT: images_NCHW.numpy()})
        return torch.from_numpy(next(iter(made.values())).copy())

    return run
