"""Forms of an exported student: the plain graph, the one with all rewrites, and with each rewrite alone."""

from __future__ import annotations

from typing import get_args

import numpy as np
import torch

from components.catlib.config import InceptionConfig, NormConfig, PruneConfig
from components.catlib.config.student import Rewrite
from components.catlib.exporting.onnx_file import generator_model
from components.catlib.exporting.parity import OnnxGenerator
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.macs import true_macs
from components.catlib.pruning.search import prune
from tests.benchmarks.forms import Forms
from tests.components.catlib.exporting.small_generators import trained_looking

BUDGETS = {"tiny": (16, 64, "0.3x"), "normal": (64, 256, "2.57e9"), "full": (64, 256, "2.57e9")}
"""Scale -> base channels of the teacher, side of the images in pixels, budget of the student."""

NORMS = {
    "instance": NormConfig(kind="instance"),
    "batch": NormConfig(kind="batch", track_running_stats=True),
}


def pruned(norm: NormConfig, scale: str, *, seed: int = 0) -> InceptionArchitecture:
    """Returns a student of horse2zebra's teacher, pruned as if all norms' scales were spread evenly over [0, 1)."""
    base_channels, side, budget = BUDGETS[scale]
    teacher = architecture_from_config(
        InceptionConfig(base_channels=base_channels, norm=norm), in_channels=3, out_channels=3, crop_size=(side, side)
    )
    random = np.random.default_rng(seed)
    scales = {each.name: random.uniform(size=each.channels).astype(np.float32) for each in teacher.prunable_norms()}
    student = prune(teacher, scales, input_size=(side, side), budget=budget, config=PruneConfig()).architecture
    assert isinstance(student, InceptionArchitecture)
    return student


def rewrite_forms(_device: str, scale: str, *, norm: str) -> Forms:
    """An image through ONNX Runtime with one thread."""
    architecture, side = pruned(NORMS[norm], scale), BUDGETS[scale][1]
    generator = trained_looking(build_generator(architecture))
    image = torch.from_numpy(architecture.example_input(1, (side, side)))
    rewrites: tuple[Rewrite, ...] = get_args(Rewrite)
    chosen = {"plain": (), "ours": rewrites} | {name.replace("_", " "): (name,) for name in rewrites}
    sessions = {}
    for name, used in chosen.items():
        model = generator_model(generator, input_size=(side, side), opset=20, rewrites=used)
        sessions[name] = OnnxGenerator(model.SerializeToString(), threads=1)

    def difference() -> float:
        with torch.no_grad():
            expected = generator(image)
        return max((session(image) - expected).abs().max().item() for session in sessions.values())

    return Forms(
        calls={name: lambda session=session: session(image) for name, session in sessions.items()},
        difference=difference,
        tolerance=1e-5,
        flops=2 * true_macs(architecture, side, side),
        facts={"threads": 1, "widths": architecture.model_dump(mode="json", include={"down", "blocks", "up"})},
    )
