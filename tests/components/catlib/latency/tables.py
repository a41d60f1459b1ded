"""Made-up tables of layers' times, for tests."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from components.catlib.config.student import Rewrite
from components.catlib.latency.parts import Part, parts, traits
from components.catlib.latency.table import LatencyTable
from components.catlib.networks.families import Architecture
from components.catlib.networks.layers import ImageSize

Time = Callable[[str, int, int], float]
"""Milliseconds of a layer of a kind, by channels read and made."""


def table(architecture: Architecture, size: ImageSize, time: Time, rewrites: tuple[Rewrite, ...] = ()) -> LatencyTable:
    """Returns a table of every channel count that students of an architecture can have."""
    largest: dict[tuple[Any, ...], Part] = {}
    for part in parts(architecture, size, rewrites):
        known = largest.get(part[:4], part)
        counts = [max(one, other) for one, other in zip(known[4:], part[4:], strict=True)]
        largest[part[:4]] = Part(*part[:4], *counts)
    layers = [
        {
            "kind": part.kind,
            "kernel_size": part.kernel_size,
            "input_size": part.input_size,
            "output_size": part.output_size,
            "in_channels": range(1, part.in_channels + 1),
            "out_channels": range(1, part.out_channels + 1),
            "milliseconds": [
                [time(part.kind, read, made) for made in range(1, part.out_channels + 1)]
                for read in range(1, part.in_channels + 1)
            ],
        }
        for part in largest.values()
    ]
    return LatencyTable.model_validate(document(network=traits(architecture), rewrites=rewrites, layers=layers))


def document(**changes: Any) -> dict[str, Any]:
    """Returns a small table as JSON values."""
    layer = {
        "kind": "conv_in",
        "kernel_size": 3,
        "input_size": [8, 8],
        "output_size": [8, 8],
        "in_channels": [4, 8, 10, 16],
        "out_channels": [2, 6],
        "milliseconds": [[1, 3], [2, 4], [9, 9], [4, 6]],
    }
    facts = {"format": 1, "device": "a phone", "runtime": "made up 1.0", "threads": 1, "opset": 20}
    return {**facts, "rewrites": [], "network": {}, "multiple": 4, "layers": [layer]} | changes


def written(path: Path, made: LatencyTable) -> Path:
    """Writes a table to a file and returns its path."""
    path.write_text(made.model_dump_json(), encoding="utf-8")
    return path
