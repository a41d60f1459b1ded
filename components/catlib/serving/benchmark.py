"""Times ONNX files on this machine: median, 95th percentile and memory of one image, files taking turns."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from components.catlib.errors import UserError
from components.catlib.serving.model import open_session, reason
from components.catlib.timing import Machine, Measured, cpu_name, measure

REPEATS = 30
"""Timed rounds, unless that takes longer than `SECONDS`."""

SECONDS = 60.0
"""No round begins later than this after the first timed one."""

DEFAULT_SIZE = (256, 256)
"""Height and width in pixels where neither the file nor the caller states any."""

_TYPES: Mapping[str, type] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
}


@dataclass(frozen=True)
class Timed:
    """One file and its times.

    Attributes:
        path: The file.
        shapes: Shape of every input, by name.
        measured: Times and memory of one call.
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    measured: Measured

    def facts(self) -> dict[str, Any]:
        """Returns what `--json` prints about the file; times in milliseconds, sizes in bytes."""
        return {
            "file": str(self.path),
            "inputs": {name: list(shape) for name, shape in self.shapes.items()},
            "milliseconds": self.measured.milliseconds(),
            "rounds": len(self.measured.seconds),
            "threads": self.measured.threads,
            "memory_bytes": self.measured.host_bytes,
            "file_bytes": self.path.stat().st_size,
        }


def time_files(paths: Sequence[Path], *, threads: int, size: tuple[int, int] | None = None) -> list[Timed]:
    """Times files beside each other, on noise, one image at a time.

    Args:
        paths: ONNX files of any origin.
        threads: CPU threads within an operation; operations run one after the other.
        size: Height and width in pixels where a file leaves them free; None: those that the file was made for.

    Raises:
        UserError: A file is no ONNX model, or cannot run on such an input.
    """
    sessions = {str(path): open_session(path, threads=threads) for path in paths}
    inputs = {name: _inputs(session, size, name) for name, session in sessions.items()}
    calls = {
        name: functools.partial(_run, session, inputs[name], f"{name} cannot run on {_shapes(inputs[name])}")
        for name, session in sessions.items()
    }
    measured = measure(calls, repeats=REPEATS, machine=Machine(threads=threads), seconds=SECONDS, memory=True)
    return [
        Timed(Path(name), {key: value.shape for key, value in inputs[name].items()}, each)
        for name, each in measured.items()
    ]


def table(timed: Sequence[Timed]) -> str:
    """Returns the times as a table for people."""
    rows = [("file", "input", "median ms", "p95 ms", "memory MB", "file MB")]
    for each in timed:
        facts, memory = each.facts(), each.measured.host_bytes
        rows.append(
            (
                str(each.path),
                ", ".join("x".join(map(str, shape)) for shape in each.shapes.values()),
                f"{facts['milliseconds']['median']:.2f}",
                f"{facts['milliseconds']['p95']:.2f}",
                "unknown" if memory is None else f"{memory / 1e6:.0f}",
                f"{facts['file_bytes'] / 1e6:.2f}",
            )
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    threads = timed[0].measured.threads
    return "\n".join([*lines, f"{cpu_name()}, {threads} thread{'s' * (threads > 1)}, ONNX Runtime {_VERSION}"])


_VERSION = onnxruntime.__version__


def _run(session: onnxruntime.InferenceSession, inputs: Mapping[str, NDArray[Any]], failed: str) -> None:
    try:
        session.run(None, dict(inputs))
    except Exception as error:  # ONNX Runtime has classes of its own, which share no other parent
        raise UserError(f"{failed} ({reason(error)}); give another --size.") from error


def _inputs(session: onnxruntime.InferenceSession, size: tuple[int, int] | None, where: str) -> dict[str, NDArray[Any]]:
    """Makes an input up for every one that a file has: noise, batch 1."""
    random = np.random.default_rng(0)
    height, width = size or _made_for(session)
    inputs: dict[str, NDArray[Any]] = {}
    for given in session.get_inputs():
        if given.type not in _TYPES:
            raise UserError(f"{where}: input {given.name} is {given.type}, which is not made up here.")
        free = (1, 1, height, width) if len(given.shape) == 4 else (1,) * len(given.shape)
        shape = [have if isinstance(have, int) else value for have, value in zip(given.shape, free, strict=True)]
        if size and len(shape) == 4 and tuple(shape[2:]) != size:
            raise UserError(f"{where} takes {shape[2]}x{shape[3]} pixels alone; leave --size out.")
        noise = random.random(shape, dtype=np.float32)
        inputs[given.name] = (2 * noise - 1 if given.type.startswith("tensor(float") else noise).astype(
            _TYPES[given.type]
        )
    return inputs


def _made_for(session: onnxruntime.InferenceSession) -> tuple[int, int]:
    """Returns height and width that an exported generator names as its own; the default for other files."""
    text = session.get_modelmeta().custom_metadata_map.get("input_size", "")
    height, _, width = text.partition(" ")[0].partition("x")
    return (int(height), int(width)) if height.isdigit() and width.isdigit() else DEFAULT_SIZE


def _shapes(inputs: Mapping[str, NDArray[Any]]) -> str:
    return ", ".join(f"{name} {list(value.shape)}" for name, value in inputs.items())
