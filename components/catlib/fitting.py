"""Checks that the inputs of a stage fit each other: networks and the images they run on, a teacher and its data.

Nothing is opened here, and torch is not loaded.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from components.catlib.config import RGB, TeacherConfig
from components.catlib.config.measuring import LPIPS_SMALLEST_SIDE
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

RECIPES = {"pix2pix": "demo", "cyclegan": "demo-unpaired", "spade": "demo-labels"}
"""A recipe of each family, because a family has settings of its own."""


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
    """Refuses images of another kind than a generator was made for, as `check_fits` does, but for their size.

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
    families = " or ".join(
        f"{name} (as the recipe {RECIPES[name]} does)"
        for name, pairings in TRAINED_ON.items()
        if dataset.pairing in pairings
    )
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
    channels = (dataset.in_channels, dataset.out_channels)
    check_size(config, dataset.crop_size, channels=channels, where=f"Dataset {dataset.folder}")


def check_size(config: TeacherConfig, size: tuple[int, int], *, channels: tuple[int, int], where: str) -> None:
    """Refuses a size of images that the networks of a teacher cannot read or make.

    Args:
        config: The teacher.
        size: Height and width of crops in pixels.
        channels: Of source and target images.
        where: What has this size; it begins the message.

    Raises:
        UserError: The size does not fit; the message names the sizes that do.
    """
    in_channels, out_channels = channels
    generator = architecture_from_config(
        config.generator, in_channels=in_channels, out_channels=out_channels, crop_size=size
    )
    generator.check_size(*size, where=where)
    discriminator = discriminator_from_config(config.discriminator, in_channels=out_channels)
    discriminator.check_size(*size, where=where)


def check_segmentable(dataset: PackedDataset, *, direction: Direction) -> None:
    """Refuses a dataset whose generated images cannot be scored by mIoU.

    Raises:
        UserError: The dataset has no true classes, or the direction does not generate photographs.
    """
    advice = "remove evaluate.segmenter, and segmenter from teacher and distill"
    if dataset.split("test").ground_truth is None:
        raise UserError(
            f"Dataset {dataset.folder} has no true classes, which mIoU needs (only Cityscapes has them); {advice}."
        )
    if direction.input is Domain.TARGET or (dataset.pairing != "labels" and dataset.summary.direction != "BtoA"):
        raise UserError(
            f"A segmenter reads photographs, but no photographs are generated from {dataset.folder}; {advice}."
        )
    if dataset.values["target"] != RGB:
        raise UserError(f"A segmenter reads 8-bit colours, but dataset.target_values states other numbers; {advice}.")


def check_comparable(backbone: Literal["alex", "vgg"], dataset: PackedDataset) -> None:
    """Refuses a dataset on which LPIPS cannot be measured.

    Args:
        backbone: The network that compares images.
        dataset: The images.

    Raises:
        UserError: Its test images have no true targets, or are too small for the network.
    """
    if not dataset.test_is_paired:
        raise UserError(
            f"LPIPS compares images with their true targets, but the test images of {dataset.folder} have none; "
            "remove evaluate.lpips."
        )
    if min(dataset.crop_size) < LPIPS_SMALLEST_SIDE[backbone]:
        raise UserError(
            f"LPIPS with the backbone {backbone} needs images of at least {LPIPS_SMALLEST_SIDE[backbone]} pixels "
            f"a side, but those of {dataset.folder} are {dataset.crop_size}; remove evaluate.lpips."
        )


def _pixels(size: tuple[int, int]) -> str:
    """Returns height and width such as 256x512."""
    return "x".join(map(str, size))
