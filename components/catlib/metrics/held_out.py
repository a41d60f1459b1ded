"""The held-out images, and the networks and statistics that score generated images.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from components.catlib.data.batches import evaluation_batches
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.metrics.perceptual_similarity import Lpips
from components.catlib.metrics.segmenters import Segmenter
from components.catlib.metrics.statistics import RealStatistics
from components.catlib.networks.directions import Direction, Domain


@dataclass(frozen=True)
class HeldOut:
    """The images, statistics and networks that score a generator.

    Attributes:
        dataset: The dataset, whose test split is used.
        statistics: Statistics of real images of the domain that is generated.
        direction: Direction in which the generators translate.
        batch_size: Images per forward pass.
        device: Where generators run while images are scored.
        segmenter: Reads classes off generated street scenes, for mIoU; None: mIoU is not measured.
        lpips: Compares generated images with the true ones; None: LPIPS is not measured.
    """

    dataset: PackedDataset
    statistics: RealStatistics
    direction: Direction
    batch_size: int
    device: str
    segmenter: Segmenter | None = None
    lpips: Lpips | None = None

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the images that are translated."""
        split = self.dataset.split("test")
        return split.names if self.direction.input is Domain.SOURCE else split.target_names


def is_labelled(dataset: PackedDataset) -> bool:
    """Returns whether a dataset has label maps or true classes; then KID is not measured (method section 7)."""
    return dataset.pairing == "labels" or dataset.has_ground_truth


def real_batches(
    dataset: PackedDataset, *, direction: Direction, batch_size: int, limit: int | None = None
) -> Iterator[NDArray[Any]]:
    """Yields the real held-out images of the domain that is generated, as they are packed: [N, H, W, C].

    Args:
        dataset: The dataset, whose test split is used in order.
        direction: Direction in which a generator translates.
        batch_size: Images per batch.
        limit: At most this many images.
    """
    split = dataset.split("test")
    images = (split.target if direction.output is Domain.TARGET else split.source)[:limit]
    for start in range(0, len(images), batch_size):
        yield images[start : start + batch_size]


def held_out_images(
    dataset: PackedDataset,
    *,
    direction: Direction,
    limit: int | None,
    batch_size: int,
    device: torch.device | str = "cpu",
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of a generator's input images and of the images it should make of them.

    Args:
        dataset: The dataset, whose test split is used in order.
        direction: Direction in which the generator translates.
        limit: At most this many images.
        batch_size: Images per batch.
        device: Where the images go.

    Yields:
        Inputs [N, C, H, W] and targets [N, 3, H, W]; targets belong to the inputs when `dataset.test_is_paired`, else
        they are other images of the target domain, or none.

    Raises:
        UserError: The dataset cannot be translated in this direction.
    """
    if direction.input is Domain.TARGET and dataset.pairing != "unpaired":
        raise UserError(f"Dataset {dataset.folder} is {dataset.pairing}; only unpaired data is translated {direction}.")
    for batch in evaluation_batches(dataset, batch_size=batch_size, limit=limit, device=device):
        inputs, targets = (
            (batch.source, batch.target) if direction.input is Domain.SOURCE else (batch.target, batch.source)
        )
        if len(inputs):
            yield inputs, targets
