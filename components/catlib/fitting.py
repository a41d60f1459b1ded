"""Checks that the inputs of a stage fit each other: networks and the images they run on, a teacher and its data.

Nothing is opened here, and torch is not loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from components.catlib.config import TeacherConfig
from components.catlib.data.channels import described
from components.catlib.data.packed import PackedDataset, Pairing
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import OpenedNetworks
from components.catlib.networks.directions import Direction, Domain
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.families import architecture_from_config

TRAINED_ON: dict[Literal["pix2pix", "cyclegan", "spade"], tuple[Pairing, ...]] = {
    "pix2pix": ("paired", "labels"),
    "cyclegan": ("unpaired",),
    "spade": ("labels",),
}
"""What data each family of teachers is trained on."""


def check_fits(networks: OpenedNetworks, dataset: PackedDataset, direction: Direction) -> None:
    """Refuses images that a generator was not made for.

    Args:
        networks: A teacher or a student.
        dataset: The images that its generator will run on.
        direction: The generator's direction.

    Raises:
        UserError: The crop size, the channels or the range of values differ, or there is no such generator.
    """
    if networks.input_size != dataset.crop_size:
        made_for, found = (_pixels(size) for size in (networks.input_size, dataset.crop_size))
        raise UserError(
            f"The networks in {networks.folder} were made for images of {made_for} pixels, but dataset "
            f"{dataset.folder} has crops of {found}; pack it with dataset.crop_size {made_for}, or give the dataset "
            "that they were trained on."
        )
    check_channels(networks, dataset, direction)


def check_channels(networks: OpenedNetworks, dataset: PackedDataset, direction: Direction) -> None:
    """Refuses images with other channels or another range than a generator was made for; their size does not matter.

    Args:
        networks: A teacher or a student.
        dataset: The images that its generator will run on.
        direction: The generator's direction.

    Raises:
        UserError: The number of channels or the range of values differs, or there is no such generator.
    """
    taken = networks.architectures.generator(direction).in_channels
    found = {Domain.SOURCE: dataset.in_channels, Domain.TARGET: dataset.out_channels}[direction.input]
    if taken != found:
        raise UserError(
            f"The generator {direction} in {networks.folder} takes {taken} channels, but dataset {dataset.folder} has "
            f"{found} in its {direction.input} images; give the dataset that the generator was trained on."
        )
    for role, values in networks.values.items():
        there = dataset.values.get(role, values)
        if there.range != values.range:
            raise UserError(
                f"The networks in {networks.folder} were made for {role} images of {described(values)}, but dataset "
                f"{dataset.folder} has {described(there)}; set dataset.{role}_values alike, or give the dataset that "
                "they were trained on."
            )


def check_pairing(family: Literal["pix2pix", "cyclegan", "spade"], dataset: PackedDataset) -> None:
    """Refuses a dataset that a family of teachers cannot train on.

    Raises:
        UserError: The dataset does not fit; the message names both, and the family that fits.
    """
    if dataset.pairing not in TRAINED_ON[family]:
        words = {"paired": "paired images", "unpaired": "unpaired images", "labels": "label maps"}
        expected = " or ".join(words[pairing] for pairing in TRAINED_ON[family])
        raise UserError(
            f"teacher.family {family} is trained on {expected}, but dataset {dataset.folder} holds "
            f"{words[dataset.pairing]}; {_other_use(dataset, TRAINED_ON[family])}, or give another dataset."
        )


def _other_use(dataset: PackedDataset, wanted: Sequence[str]) -> str:
    """Returns how the images of a dataset may be used after all: packed in another way, or by another family."""
    families = " or ".join(name for name, pairings in TRAINED_ON.items() if dataset.pairing in pairings)
    split = dataset.split("train")
    if dataset.pairing == "unpaired" and "paired" in wanted and set(split.names) & set(split.target_names):
        return f"set dataset.layout: parallel if images of equal names are partners, use teacher.family {families}"
    if dataset.pairing == "paired" and "unpaired" in wanted and dataset.summary.provenance.get("layout") == "parallel":
        return f"set dataset.layout: unpaired to train without the pairs, use teacher.family {families}"
    if dataset.pairing == "paired" and "labels" in wanted:
        return f"set dataset.num_labels if the source images are label maps, use teacher.family {families}"
    return f"use teacher.family {families}"


def check_crop_size(config: TeacherConfig, dataset: PackedDataset) -> None:
    """Refuses crops that the networks cannot read or make.

    Raises:
        UserError: The crop size does not fit; the message names the sizes that do.
    """
    height, width = dataset.crop_size
    where = f"Dataset {dataset.folder}"
    generator = architecture_from_config(
        config.generator,
        in_channels=dataset.in_channels,
        out_channels=dataset.out_channels,
        crop_size=dataset.crop_size,
    )
    generator.check_size(height, width, where=where)
    discriminator = discriminator_from_config(config.discriminator, in_channels=dataset.out_channels)
    discriminator.check_size(height, width, where=where)


def _pixels(size: tuple[int, int]) -> str:
    """Returns height and width such as 256x512."""
    return "x".join(map(str, size))
