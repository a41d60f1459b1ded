"""The fetch stage for teachers: those of earlier runs, and published ones, which become artifacts of this run."""

from __future__ import annotations

import logging
from pathlib import Path

from components.catlib.artifacts import writing
from components.catlib.config import PruneConfig, PublishedConfig, PublishedCycleGanConfig, TeacherConfig, WeightsConfig
from components.catlib.config.networks import STATE_DICTS
from components.catlib.data.packed import PackedDataset
from components.catlib.fitting import check_crop_size, check_pairing
from components.catlib.networks.directions import Direction
from components.catlib.training.artifact import write_result
from components.catlib.training.building import build_teacher_networks
from components.catlib.training.progress import Progress
from components.fetch import stage

logger = logging.getLogger(__name__)


def run(address: str, *, config: TeacherConfig, prune: PruneConfig, dataset: Path, output: Path) -> None:
    """Fetches a teacher's artifact unchanged, or makes one from a published generator.

    Args:
        address: A folder or `s3://bucket/prefix` that holds an artifact; or a `.pth` file, a path, s3:// or https://
            address, that holds the state dict of the generator to prune.
        config: The recipe's `teacher` section. For a published teacher it gives the family, what tensors do not show,
            and the file of the discriminator; without that file a fresh discriminator is used.
        prune: The recipe's `prune` section, which names the direction of a published generator.
        dataset: A dataset artifact, whose images a published teacher must fit.
        output: Where the artifact goes; an earlier teacher, or an empty folder, is replaced.

    Raises:
        UserError: The address holds nothing, or neither of the two, or a generator that does not fit the dataset.
    """
    if not address.endswith(STATE_DICTS):
        stage.run(address=address, kind="teacher", output=output)
        return
    images = PackedDataset.open(dataset)
    check_pairing(config.family, images)
    check_crop_size(config, images)
    direction = Direction(prune.generator)
    changes = {"epochs": 0, "decay_epochs": 0, "start_from": None, "published": _published(address, config, direction)}
    taken_over = config.model_copy(update=changes)
    generator, discriminator = build_teacher_networks(
        taken_over,
        direction,
        in_channels=images.in_channels,
        out_channels=images.out_channels,
        crop_size=images.crop_size,
    )
    inputs = {"dataset": images.manifest}
    with writing(output, kind="teacher", config=taken_over, inputs=inputs, stage="fetch_teacher") as writer:
        write_result(
            writer,
            {direction: generator},
            {direction.output: discriminator},
            images,
            config=taken_over,
            progress=Progress(),
        )
    logger.info("%s: the generator %s of a teacher", address, direction)


def _published(address: str, config: TeacherConfig, direction: Direction) -> PublishedConfig:
    """Returns the recipe's published networks of one direction, the generator replaced by the one at an address."""
    given = config.published
    generator = WeightsConfig(uri=address)
    if direction is Direction.TARGET_TO_SOURCE:
        judge = given.discriminator_backward if isinstance(given, PublishedCycleGanConfig) else None
        return PublishedCycleGanConfig(generator_backward=generator, discriminator_backward=judge)
    published = PublishedCycleGanConfig if config.family == "cyclegan" else PublishedConfig
    return published(generator=generator, discriminator=given.discriminator if given else None)
