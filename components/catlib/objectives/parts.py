"""A batch in parts, which go through the networks one after the other: their gradients add up to those of the batch.

Every loss here is a mean over images. So the loss of a batch of 5 images is ⅖ of that of its first two, ⅖ of that of
the next two, and ⅕ of that of the last one. This holds only where no image of a batch depends on another one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from torch import nn

from components.catlib.config import TrainingConfig
from components.catlib.config.training import cannot_split
from components.catlib.data.batches import Batch
from components.catlib.errors import UserError


class Part(NamedTuple):
    """Some images of a batch.

    Attributes:
        share: Their number, divided by that of the batch.
        images: The images.
    """

    share: float
    images: Batch


def parts_of(batch: Batch, images_per_pass: int | None) -> list[Part]:
    """Returns a batch in parts of at most this many images, in order; None: the batch as its only part."""
    count = len(batch.source)
    if images_per_pass is None or images_per_pass >= count:
        return [Part(1.0, batch)]
    pairs = zip(batch.source.split(images_per_pass), batch.target.split(images_per_pass), strict=True)
    return [Part(len(source) / count, Batch(source, target)) for source, target in pairs]


def check_parts(network: nn.Module, config: TrainingConfig) -> None:
    """Refuses to train a network with parts of a batch if its images depend on each other.

    Recipes are checked before; this is for networks that come from outside, with norms of their own.

    Raises:
        UserError: It has batch norms, buffers that change with every pass, or dropout.
    """
    reason = next(undivided(network), None) if config.splits_batches else None
    if reason is not None:
        raise UserError(f"images_per_pass: {config.images_per_pass} {cannot_split(reason)}.")


def undivided(network: nn.Module) -> Iterator[str]:
    """Yields why a batch cannot go through a network in parts."""
    for name, module in network.named_modules():
        where = f"layer {name} ({type(module).__name__})"
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            yield f"{where} normalises an image by the whole batch"
        elif any(True for _ in module.buffers(recurse=False)):
            yield f"{where} has buffers that change with every pass"
        elif isinstance(module, nn.Dropout) and module.p > 0:
            yield f"{where} draws random numbers for a whole batch"
