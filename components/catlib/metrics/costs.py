"""Costs of a generator, and ratios to its teacher: multiply-accumulates, parameters, time on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from components.catlib.distributed.machines import torch_machine
from components.catlib.metrics.held_out import HeldOut, held_out_images
from components.catlib.networks.generator import Generator
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.timing import Measured, measure, ratio


def costs(generator: Generator, size: tuple[int, int], latency: Measured) -> dict[str, Any]:
    """Counts `paper_macs` and `true_macs` for one image and `parameters`; `latency_ms` is the time.

    Args:
        generator: The generator.
        size: Height and width of the image.
        latency: Its time per image.
    """
    return {
        "paper_macs": paper_macs(generator.architecture, *size),
        "true_macs": true_macs(generator.architecture, *size),
        "parameters": parameters(generator.architecture),
        "latency_ms": latency.milliseconds(),
    }


def time_generators(generators: Mapping[str, Generator], held_out: HeldOut, *, repeats: int) -> dict[str, Measured]:
    """Times generators on the CPU in turn, on the first held-out image; they return to their device afterwards."""
    image, _ = next(held_out_images(held_out.dataset, direction=held_out.direction, limit=1, batch_size=1))
    for generator in generators.values():
        generator.cpu()
    with torch.inference_mode():
        latencies = measure(
            {name: lambda generator=generator: generator(image) for name, generator in generators.items()},
            repeats=repeats,
            machine=torch_machine(),
        )
    for generator in generators.values():
        generator.to(held_out.device)
    return latencies


def cost_ratios(facts: Mapping[str, dict[str, Any]], latencies: Mapping[str, Measured]) -> dict[str, float]:
    """Divides each cost of the teacher by the student's; empty without a teacher.

    Args:
        facts: "student", and maybe "teacher" -> the costs from `costs`.
        latencies: The same names -> times, measured in turn.
    """
    if "teacher" not in facts:
        return {}
    counted = ("paper_macs", "true_macs", "parameters")
    ratios = {name: facts["teacher"][name] / facts["student"][name] for name in counted}
    return ratios | {"latency": ratio(latencies["teacher"], latencies["student"])}
