"""Makes objectives from a recipe's section: the networks, their first weights, and which ones are opponents."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from torch import nn

from components.catlib.config import (
    CycleGanConfig,
    DiscriminatorConfig,
    DistillConfig,
    GeneratorConfig,
    Pix2PixConfig,
    PublishedConfig,
    PublishedCycleGanConfig,
    SpadeConfig,
    TeacherConfig,
    WeightsConfig,
)
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import OpenedNetworks
from components.catlib.networks.directions import Direction
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.model_files import read_discriminator, read_generator
from components.catlib.networks.published.discriminators import load_discriminator
from components.catlib.networks.published.generators import load_generator
from components.catlib.objectives.cyclegan import CycleGanObjective
from components.catlib.objectives.distillation import DistillationObjective, distillation_objective
from components.catlib.objectives.feature_distillation import own_networks
from components.catlib.objectives.pix2pix import Pix2PixObjective
from components.catlib.objectives.spade import SpadeObjective
from components.catlib.storage import local_copy
from components.catlib.training.perceptual_weights import wanted_perceptual_loss

TeacherObjective = Pix2PixObjective | CycleGanObjective | SpadeObjective

logger = logging.getLogger(__name__)

SEEDS_PER_RUN = 8
"""Every network of a run draws its weights from a seed of its own, which no run with another seed uses."""

DIRECTIONS: dict[Literal["pix2pix", "cyclegan", "spade"], tuple[Direction, ...]] = {
    "pix2pix": (Direction.SOURCE_TO_TARGET,),
    "cyclegan": (Direction.SOURCE_TO_TARGET, Direction.TARGET_TO_SOURCE),
    "spade": (Direction.SOURCE_TO_TARGET,),
}
"""The directions of the generators of each family of teachers."""


def build_teacher_objective(
    config: TeacherConfig, *, in_channels: int, out_channels: int, crop_size: tuple[int, int], accelerator: Accelerator
) -> TeacherObjective:
    """Makes the objective that trains a teacher, and its networks with fresh or published weights.

    Args:
        config: The teacher section of a recipe.
        in_channels: Channels of source images, or semantic planes.
        out_channels: Channels of target images.
        crop_size: Height, width in pixels of the images in a batch.
        accelerator: Device, precision and processes.

    Raises:
        UserError: Sizes or channels do not fit the networks, or weights cannot be read.
    """
    perceptual = wanted_perceptual_loss(config, accelerator.device)
    networks: dict[str, nn.Module] = {}
    for direction in DIRECTIONS[config.family]:
        generator, discriminator = build_teacher_networks(
            config, direction, in_channels=in_channels, out_channels=out_channels, crop_size=crop_size
        )
        networks[f"generator_{direction}"] = generator
        networks[f"discriminator_{direction.output}"] = discriminator
    match config:
        case Pix2PixConfig():
            return Pix2PixObjective(config, networks, accelerator, perceptual)
        case CycleGanConfig():
            return CycleGanObjective(config, networks, accelerator)
        case SpadeConfig():
            return SpadeObjective(config, networks, accelerator, perceptual)


def build_teacher_networks(
    config: TeacherConfig, direction: Direction, *, in_channels: int, out_channels: int, crop_size: tuple[int, int]
) -> tuple[Generator, Discriminator]:
    """Makes one of a teacher's generators, and the discriminator of its images, with fresh or published weights.

    Args:
        config: The teacher section of a recipe.
        direction: The generator's direction.
        in_channels: Channels of source images, or semantic planes.
        out_channels: Channels of target images.
        crop_size: Height, width in pixels of the images in a batch.

    Raises:
        UserError: The family has no such direction, sizes or channels do not fit, or weights cannot be read.
    """
    directions = DIRECTIONS[config.family]
    if direction not in directions:
        raise UserError(
            f"A teacher of family {config.family} has no generator {direction}; set prune.generator to {directions[0]}."
        )
    both_ways = config.family == "cyclegan"
    if both_ways and in_channels != out_channels:
        raise UserError(
            f"teacher.family cyclegan translates both ways between images, but the dataset has {in_channels} source "
            f"and {out_channels} target channels; use family pix2pix or spade for label maps."
        )
    seen_channels = out_channels if both_ways else in_channels + out_channels
    seed = SEEDS_PER_RUN * config.seed + 2 * directions.index(direction)
    published_generator, published_discriminator = _published(config.published, direction)
    generator = _teacher_generator(
        config.generator, published_generator, channels=(in_channels, out_channels), crop_size=crop_size, seed=seed
    )
    discriminator = _teacher_discriminator(
        config.discriminator, published_discriminator, in_channels=seen_channels, seed=seed + 1
    )
    if published_generator is not None and published_discriminator is None:
        logger.warning("no published discriminator is given with %s: a fresh one is used", published_generator.uri)
    return generator, discriminator


def build_distillation_objective(
    config: DistillConfig,
    *,
    teacher: OpenedNetworks,
    student: OpenedNetworks,
    accelerator: Accelerator,
) -> DistillationObjective:
    """Makes the objective that distils a teacher into the student that was cut from it.

    The student starts from published weights, from inherited weights in its folder, or from fresh ones. The
    discriminator starts from published weights, from those of the teacher's discriminator, or from fresh ones.

    Args:
        config: The distill section of a recipe.
        teacher: The opened artifact of the teacher stage.
        student: The opened artifact of the prune stage: one generator, whose direction chooses the teacher's generator
            and discriminator.
        accelerator: Device, precision and processes.

    Raises:
        UserError: A network is missing, the student does not fit the teacher, or weights cannot be read.
    """
    direction = student.only_direction
    perceptual = wanted_perceptual_loss(config, accelerator.device)
    teaching = read_generator(teacher, direction)
    fresh = _FreshWeights(
        kind=config.init,
        gain=config.init_gain,
        seed=SEEDS_PER_RUN * config.seed + 4,  # after those of a teacher with the same seed
    )
    published_student, published_discriminator = _published(config.published, direction)
    learning = _student(published_student, student, direction, fresh)
    _check_student(learning, teaching)
    networks: dict[str, nn.Module] = {
        f"generator_{direction}": learning,
        f"discriminator_{direction.output}": _student_discriminator(
            config, published_discriminator, teacher, direction, fresh
        ),
    }
    for number, (name, network) in enumerate(own_networks(config.distiller, learning, teaching).items(), start=2):
        networks[name] = network
        fresh.draw(network, number=number)
    return distillation_objective(
        config, networks, accelerator, teacher=teaching, direction=direction, perceptual=perceptual
    )


@dataclass(frozen=True)
class _FreshWeights:
    """How the new networks of a distillation are initialised."""

    kind: Literal["normal", "xavier"]
    gain: float
    seed: int

    def draw(self, network: nn.Module, *, number: int) -> None:
        """Draws the weights of a network; every number gives other weights."""
        initialise(network, kind=self.kind, gain=self.gain, seed=self.seed + number)


def _published(
    config: PublishedConfig | None, direction: Direction
) -> tuple[WeightsConfig | None, WeightsConfig | None]:
    """Returns the addresses of a direction's published generator and discriminator; None for each that is not given."""
    if config is None:
        return None, None
    if direction is Direction.SOURCE_TO_TARGET:
        return config.generator, config.discriminator
    if isinstance(config, PublishedCycleGanConfig):
        return config.generator_backward, config.discriminator_backward
    return None, None


def _teacher_generator(
    config: GeneratorConfig,
    published: WeightsConfig | None,
    *,
    channels: tuple[int, int],
    crop_size: tuple[int, int],
    seed: int,
) -> Generator:
    if published is not None:
        network = load_generator(local_copy(published.uri), like=config, input_size=crop_size, sha256=published.sha256)
        found = network.architecture.in_channels, network.architecture.out_channels
        if found != channels:
            raise UserError(
                f"{published.uri} is a generator from {found[0]} to {found[1]} channels, but the dataset has "
                f"{channels[0]} source and {channels[1]} target channels."
            )
        return network
    architecture = architecture_from_config(
        config, in_channels=channels[0], out_channels=channels[1], crop_size=crop_size
    )
    network = build_generator(architecture)
    initialise(network, kind=config.init, gain=config.init_gain, seed=seed)
    return network


def _teacher_discriminator(
    config: DiscriminatorConfig, published: WeightsConfig | None, *, in_channels: int, seed: int
) -> Discriminator:
    if published is not None:
        network = load_discriminator(local_copy(published.uri), like=config, sha256=published.sha256)
        _check_judged_channels(network, in_channels, published)
        return network
    network = build_discriminator(discriminator_from_config(config, in_channels=in_channels))
    initialise(network, kind=config.init, gain=config.init_gain, seed=seed)
    return network


def _check_judged_channels(network: Discriminator, in_channels: int, published: WeightsConfig) -> None:
    if network.architecture.in_channels != in_channels:
        raise UserError(
            f"{published.uri} judges images of {network.architecture.in_channels} channels, expected {in_channels}: "
            f"those of the target image and, unless the data is unpaired, those of the source."
        )


def _student(
    published: WeightsConfig | None, networks: OpenedNetworks, direction: Direction, fresh: _FreshWeights
) -> Generator:
    architecture = networks.architectures.generator(direction)
    if published is not None:
        return load_generator(
            local_copy(published.uri), like=architecture, input_size=networks.input_size, sha256=published.sha256
        )
    if networks.has_weights(direction):
        return read_generator(networks, direction)
    student = build_generator(architecture)
    fresh.draw(student, number=0)
    return student


def _check_student(student: Generator, teacher: Generator) -> None:
    """Refuses a student that cannot have been cut from the teacher: other inputs, outputs or layers to compare."""
    ours, theirs = student.architecture, teacher.architecture
    for what in ("family", "in_channels", "out_channels"):
        if getattr(ours, what) != getattr(theirs, what):
            raise UserError(
                f"The student does not fit the teacher: its {what} is {getattr(ours, what)}, the teacher's "
                f"{getattr(theirs, what)}; give the teacher that it was pruned from."
            )
    if student.distillation_layers != teacher.distillation_layers:
        raise UserError(
            f"The student does not fit the teacher: its feature layers are {', '.join(student.distillation_layers)}, "
            f"the teacher's {', '.join(teacher.distillation_layers)}; give the teacher that it was pruned from."
        )


def _student_discriminator(
    config: DistillConfig,
    published: WeightsConfig | None,
    teacher: OpenedNetworks,
    direction: Direction,
    fresh: _FreshWeights,
) -> Discriminator:
    architecture = teacher.architectures.discriminator(direction.output)
    if published is not None:
        network = load_discriminator(local_copy(published.uri), like=architecture, sha256=published.sha256)
        _check_judged_channels(network, architecture.in_channels, published)
        return network
    if config.discriminator == "teacher":
        return read_discriminator(teacher, direction.output)
    network = build_discriminator(architecture)
    fresh.draw(network, number=1)
    return network
