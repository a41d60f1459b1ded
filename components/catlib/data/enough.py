"""Whether a dataset holds enough images for what it is used for: one rule, whichever stage asks.

Torch is not loaded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError

HELD_OUT = 2
"""Smallest number of held-out images that scores can be computed from."""


def check_batch_size(dataset: PackedDataset, *, batch_size: int, section: str) -> int:
    """Refuses batches that the training images do not fill.

    Args:
        dataset: The dataset.
        batch_size: Images per batch.
        section: The section of the recipe, for messages.

    Returns:
        Number of training images in an epoch; of unpaired data, that of the larger domain.

    Raises:
        UserError: A domain has no training images, or there are fewer than one batch.
    """
    split = dataset.split("train")
    if not len(split.source) or not len(split.target):
        raise UserError(
            f"Dataset {dataset.folder} lacks training images of one domain or both; "
            "run the dataset stage with training images of both."
        )
    count = max(len(split.source), len(split.target))
    if batch_size > count:
        raise UserError(
            f"{section}.batch_size {batch_size} is larger than the number of training images in {dataset.folder}, "
            f"{count}; set {section}.batch_size to {count} or less."
        )
    return count


def check_held_out(dataset: PackedDataset, domains: Iterable[Literal["source", "target"]]) -> None:
    """Refuses a dataset with too few held-out images to compute scores from.

    Args:
        dataset: The dataset.
        domains: The domains whose images are translated and scored.

    Raises:
        UserError: A domain has fewer than `HELD_OUT`; the message says how to hold out more.
    """
    split = dataset.split("test")
    counts = {"source": len(split.source), "target": len(split.target)}
    for domain in domains:
        if counts[domain] < HELD_OUT:
            raise UserError(
                f"Dataset {dataset.folder} has {counts[domain]} held-out {domain} images, but scores need at least "
                f"two; {_how_to_hold_out(dataset, domain)}."
            )


def _how_to_hold_out(dataset: PackedDataset, domain: Literal["source", "target"]) -> str:
    settings: dict[str, Any] = dataset.manifest.config
    train = dataset.split("train")
    if settings.get("max_images") == 1:
        return "set dataset.max_images to 2 or more and run the dataset stage again"
    if "held out by digest" not in str(dataset.summary.provenance.get("split", "")):
        return "put at least two images into the source's folder of held-out images and run the dataset stage again"
    if len(train.source if domain == "source" else train.target) > HELD_OUT and settings.get("test_fraction") == 0:
        return "set dataset.test_fraction to 0.1 and run the dataset stage again"
    return "run the dataset stage with more images"
