"""Exports a student that is published without an export artifact; nothing is timed, so files are equal each time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from components.catlib.config import RGB, ExportConfig
from components.catlib.exporting.metadata import picture_sizes, serving_metadata
from components.catlib.exporting.onnx_file import export_generator, family_rewrites
from components.catlib.exporting.parity import OnnxGenerator, compare, parity_batches
from components.catlib.networks.architecture_files import OpenedNetworks
from components.catlib.networks.model_files import read_generator


def export_plainly(networks: OpenedNetworks, path: Path) -> dict[str, Any]:
    """Writes a student's ONNX file with the default settings, and compares it with PyTorch on noise.

    Args:
        networks: The opened student.
        path: The file to write.

    Returns:
        Facts as in `export.json`.

    Raises:
        UserError: There are no weights.
        RuntimeError: The file computes other images than PyTorch.
    """
    settings, direction = ExportConfig(), networks.direction
    generator = read_generator(networks, direction)
    architecture = generator.architecture
    ends = {"input": direction.input, "output": direction.output}
    values = {end: networks.values.get(domain.value, RGB) for end, domain in ends.items()}
    model = export_generator(
        generator,
        path,
        input_size=networks.input_size,
        opset=settings.opset,
        metadata=serving_metadata(architecture, values, None) | {"student": networks.manifest.digest()},
        rewrites=family_rewrites(generator),
    )
    noise = torch.from_numpy(architecture.example_input(2, networks.input_size))
    step = architecture.size_step if model.any_size else None
    parity = compare(generator, OnnxGenerator(path), parity_batches(noise, size_step=step))
    if parity.largest > settings.tolerance:
        raise RuntimeError(f"The ONNX model differs from PyTorch by up to {parity.largest:.2e} on noise; export it.")
    return {
        "file": path.name,
        "bytes": path.stat().st_size,
        "opset": model.opset,
        "input": {"name": "image", "shape": list(model.input_shape)},
        "output": {"name": "translated", "shape": list(model.output_shape)},
        "sizes": picture_sizes(architecture),
        "parity": {
            "compared_on": "noise",
            "largest_difference": float(f"{parity.largest:.1e}"),
            "tolerance": settings.tolerance,
        },
    }
