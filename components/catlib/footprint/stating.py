"""What a stage says of its memory: how much it needs, beside what there is."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BYTES = 4
"""Bytes of a weight, an image's value, or an activation in fp32."""

CGROUP_LIMITS = (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"))
"""Where Linux keeps the limit of a container's memory, a number or "max"."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Footprint:
    """Memory that a stage needs, about.

    Attributes:
        weights: Bytes of weights, gradients, optimisers and averages.
        activations: Bytes of images and activations at the fullest moment.
    """

    weights: int
    activations: int

    @property
    def total(self) -> int:
        """All of it, in bytes."""
        return self.weights + self.activations

    def __str__(self) -> str:
        """Returns it for people: "27.3 GiB (weights and optimisers 0.3, activations 27.0)"."""
        unit, name = (2**30, "GiB") if self.total >= 2**30 else (2**20, "MiB")
        whole, weights, activations = (f"{size / unit:.1f}" for size in (self.total, self.weights, self.activations))
        return f"{whole} {name} (weights and optimisers {weights}, activations {activations})"


def state(stage: str, needed: Footprint, device: torch.device, *, savings: str) -> None:
    """Logs what a stage needs beside what its device has.

    Args:
        stage: Name of the stage.
        needed: What it needs.
        device: Its device.
        savings: Settings that make it need less: the end of a sentence, "lower …".
    """
    there = memory_of(device)
    logger.info("%s needs about %s; %s has %.1f GiB", stage, needed, device, there / 2**30)
    if needed.total > there:
        logger.warning("%s may run out of memory; if it does, %s", stage, savings)


def memory_of(device: torch.device) -> int:
    """Returns the memory of a GPU in bytes; of the CPU, that of this machine or of its container."""
    if device.type == "cuda":
        import torch

        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    limits += [int(text) for path in CGROUP_LIMITS if path.exists() and (text := path.read_text().strip()).isdigit()]
    return min(limits)
