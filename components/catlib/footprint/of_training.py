"""What a training says of its memory: what it needs, and which settings make it need less."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import cast

from torch import nn

from components.catlib.config import TrainingConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.footprint.stating import state
from components.catlib.footprint.trainings import student_footprint, teacher_footprint
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.networks.layers import ImageSize
from components.catlib.objectives.parts import undivided


def state_training(
    stage: str,
    config: TrainingConfig,
    networks: Mapping[str, nn.Module],
    size: ImageSize,
    accelerator: Accelerator,
    teachers: Mapping[str, nn.Module] | None = None,
) -> None:
    """Logs what a training needs beside what its device has; too little is a warning that names settings.

    Args:
        stage: "teacher" or "distill".
        config: The stage's section of the recipe.
        networks: What is trained, by name.
        size: Height and width of the images in pixels.
        accelerator: Device and processes.
        teachers: By direction, the generators that are learned from; None for the training of a teacher.
    """
    generator = next(network for name, network in networks.items() if name.startswith("generator"))
    judge = next(network for name, network in networks.items() if name.startswith("discriminator"))
    made, judged = cast("Generator", generator).architecture, cast("Discriminator", judge).architecture
    processes = accelerator.num_processes
    if teachers is None:
        needed = teacher_footprint(config, made, judged, size, processes=processes)  # pyright: ignore[reportArgumentType]
    else:
        (teacher,) = teachers.values()
        taught = cast("Generator", teacher).architecture
        needed = student_footprint(config, made, taught, judged, size, processes=processes)  # pyright: ignore[reportArgumentType]
    state(stage, needed, accelerator.device, savings=savings(stage, config, networks))


def savings(stage: str, config: TrainingConfig, networks: Mapping[str, nn.Module]) -> str:
    """Returns which settings make a training need less memory, those that are open to it: the end of a sentence.

    Args:
        stage: "teacher" or "distill", the section of the settings.
        config: The section.
        networks: What is trained, by name.
    """
    return " or ".join(f"{verb} {stage}.{setting}" for verb, setting in _savings(config, networks))


def _savings(config: TrainingConfig, networks: Mapping[str, nn.Module]) -> Iterator[tuple[str, str]]:
    if not config.recompute_activations and not config.compile:
        yield "set", "recompute_activations: true"
    if config.precision == "fp32":
        yield "set", "precision: bf16"
    if not any(True for _ in config.undivided()) and not any(
        True for each in networks.values() for _ in undivided(each)
    ):
        most = config.images_per_pass or config.batch_size
        if most > 1:
            yield ("lower", "images_per_pass") if config.images_per_pass else ("set", f"images_per_pass below {most}")
    yield "lower", "batch_size"
