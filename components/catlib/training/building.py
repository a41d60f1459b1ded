"""Makes the objectives that train teachers from a recipe's section: the networks and their first weights.

Those of students are made in `distilling.py`, so that a change of the distillation is no change of the teacher's code.
"""

from __future__ import annotations

import logging
from typing import Literal

from torch import nn

from components.catlib.config import (
    CycleGanConfig,
    DiscriminatorConfig,
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
from components.catlib.networks.batch_dependence import settle_norms
from components.catlib.networks.directions import Direction
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.published.discriminators import load_discriminator
from components.catlib.networks.published.generators import load_generator
from components.catlib.objectives.cyclegan import CycleGanObjective
from components.catlib.objectives.pix2pix import Pix2PixObjective
from components.catlib.objectives.spade import SpadeObjective
from components.catlib.storage import local_copy, shown
from components.catlib.training.perceptual_weights import wanted_perceptual_loss
from components.catlib.training.starting import EarlierTeacher

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
    config: TeacherConfig,
    *,
    in_channels: int,
    out_channels: int,
    crop_size: tuple[int, int],
    accelerator: Accelerator,
    earlier: EarlierTeacher | None = None,
) -> TeacherObjective:
    """Makes the objective that trains a teacher, and its networks with fresh, published or earlier weights.

    Args:
        config: The teacher section of a recipe.
        in_channels: Channels of source images, or semantic planes.
        out_channels: Channels of target images.
        crop_size: Height, width in pixels of the images in a batch.
        accelerator: Device, precision and processes.
        earlier: The teacher of `config.start_from`.

    Raises:
        UserError: Sizes or channels do not fit the networks, or weights cannot be read.
    """
    perceptual = wanted_perceptual_loss(config, accelerator.device)
    networks: dict[str, nn.Module] = {}
    for direction in DIRECTIONS[config.family]:
        generator, discriminator = build_teacher_networks(
            config,
            direction,
            in_channels=in_channels,
            out_channels=out_channels,
            crop_size=crop_size,
            earlier=earlier,
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
    config: TeacherConfig,
    direction: Direction,
    *,
    in_channels: int,
    out_channels: int,
    crop_size: tuple[int, int],
    earlier: EarlierTeacher | None = None,
) -> tuple[Generator, Discriminator]:
    """Makes a teacher's generator of a direction, and the discriminator of its images.

    The other arguments are those of `build_teacher_objective`, which makes all of them.

    Raises:
        UserError: The family has no such direction, sizes or channels do not fit, weights cannot be read, or the
            generator's batch norms keep no running statistics though it is trained.
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
            f"and {out_channels} target channels; give both equally many, or use teacher.family pix2pix for pairs or "
            "label maps, or spade for label maps."
        )
    seen_channels = out_channels if both_ways else in_channels + out_channels
    seed = SEEDS_PER_RUN * config.seed + 2 * directions.index(direction)
    published_generator, published_discriminator = published_weights(config.published, direction)
    generator, discriminator = None, None
    if earlier is not None:
        wanted = architecture_from_config(
            config.generator, in_channels=in_channels, out_channels=out_channels, crop_size=crop_size
        )
        generator = earlier.generator(direction, wanted, like=config.generator, crop_size=crop_size)
        discriminator = earlier.discriminator(direction, like=config.discriminator, in_channels=seen_channels)
    if generator is None:
        generator = _teacher_generator(
            config.generator, published_generator, channels=(in_channels, out_channels), crop_size=crop_size, seed=seed
        )
    start = published_generator or config.start_from
    settle_norms(
        generator,
        trains=config.trains,
        where="The teacher" if start is None else shown(start.uri),
        advice="set teacher.generator.norm.track_running_stats: true and start from weights with them, or from none",
    )
    if discriminator is None:
        discriminator = _teacher_discriminator(
            config.discriminator, published_discriminator, in_channels=seen_channels, seed=seed + 1
        )
    if published_generator is not None and published_discriminator is None:
        logger.warning("no published discriminator is given with %s: a fresh one is used", published_generator.uri)
    return generator, discriminator


def published_weights(
    config: PublishedConfig | None, direction: Direction
) -> tuple[WeightsConfig | None, WeightsConfig | None]:
    """Returns the addresses of a direction's published generator and discriminator; None for each that is not given.

    Args:
        config: Published networks of all directions; None without any.
        direction: The generator's direction.
    """
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
        check_judged_channels(network, in_channels, published)
        return network
    network = build_discriminator(discriminator_from_config(config, in_channels=in_channels))
    initialise(network, kind=config.init, gain=config.init_gain, seed=seed)
    return network


def check_judged_channels(network: Discriminator, in_channels: int, published: WeightsConfig) -> None:
    """Refuses a published discriminator that judges images of other channels than there are.

    Args:
        network: The discriminator.
        in_channels: Channels of the images to judge.
        published: Its address, for the message.

    Raises:
        UserError: The channels differ.
    """
    if network.architecture.in_channels != in_channels:
        raise UserError(
            f"{published.uri} judges images of {network.architecture.in_channels} channels, expected {in_channels}: "
            f"those of the target image and, unless the data is unpaired, those of the source."
        )
