"""Batches of a packed dataset: shuffled, cropped and mirrored for training, whole and in order for evaluation.

Suffixes: N images of a batch, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from components.catlib.config import RGB, ValuesConfig
from components.catlib.data.enough import check_batch_size
from components.catlib.data.labels import semantic_planes
from components.catlib.data.packed import PackedDataset, PackedSummary, SplitName
from components.catlib.data.resizing import as_image, resize

# Each kind of draw has its own stream of random numbers, so one kind never changes the numbers of another.
_SHUFFLE, _PARTNERS, _SOURCE_CROPS, _TARGET_CROPS = range(4)


@dataclass(frozen=True)
class Batch:
    """Source and target images, as networks see them.

    Attributes:
        source: float32 [N, C, H, W] in [-1, 1], or semantic planes, float32 [N, C, H, W] of 0 and 1.
        target: float32 [N, C, H, W] in [-1, 1]. In paired data, row i belongs to row i of the source.
    """

    source: Tensor
    target: Tensor

    def to(self, device: torch.device | str, *, memory_format: torch.memory_format = torch.preserve_format) -> Batch:
        """Returns the batch on a device, in a memory format such as `torch.channels_last` (default: unchanged)."""
        source, target = (images.to(device, memory_format=memory_format) for images in (self.source, self.target))
        return Batch(source, target)


@dataclass(frozen=True)
class PackedBatch:
    """Source and target images as they are packed, in a quarter of the bytes or less; `to` makes a `Batch` of them.

    Attributes:
        source: uint8, uint16 or float32 [N, C, H, W]; or label maps, uint8 [N, H, W].
        target: uint8, uint16 or float32 [N, C, H, W].
        instances: Instance ids of label maps, int32 [N, H, W], or None.
        summary: What the numbers mean: the facts about the dataset.
    """

    source: Tensor
    target: Tensor
    instances: Tensor | None
    summary: PackedSummary

    def pinned(self) -> PackedBatch:
        """Returns the batch in page-locked memory, from which a GPU copies while the program goes on."""
        return self._with(lambda part: part.pin_memory())

    def to(self, device: torch.device | str, *, memory_format: torch.memory_format = torch.preserve_format) -> Batch:
        """Copies the batch to a device and makes floats and planes there, without waiting for a GPU.

        Args:
            device: The device.
            memory_format: Order in memory, such as `torch.channels_last`; default: [N, C, H, W].

        Returns:
            The batch; on every device the same numbers, to the last bit.
        """
        device, values = torch.device(device), self.summary.values
        there = self if device.type == "mps" else self._with(partial(_moved, device=device))
        target = to_unit_range(there.target, values["target"])
        if self.summary.pairing == "labels":
            assert self.summary.num_labels is not None
            source = semantic_planes(
                there.source,
                there.instances,
                num_labels=self.summary.num_labels,
                dont_care_plane=self.summary.dont_care_plane,
            )
        else:
            source = to_unit_range(there.source, values["source"])
        return Batch(source, target).to(device, memory_format=memory_format)

    def _with(self, change: Callable[[Tensor], Tensor]) -> PackedBatch:
        return PackedBatch(
            change(self.source),
            change(self.target),
            None if self.instances is None else change(self.instances),
            self.summary,
        )


def _moved(part: Tensor, *, device: torch.device) -> Tensor:
    return part.to(device, non_blocking=device.type == "cuda")


@dataclass(frozen=True)
class Crops:
    """Where each image of a batch is cropped, and whether the crop is mirrored left to right.

    Attributes:
        tops: int64 [N], first row of each crop.
        lefts: int64 [N], first column of each crop.
        flips: bool [N], whether each crop is mirrored.
    """

    tops: NDArray[np.int64]
    lefts: NDArray[np.int64]
    flips: NDArray[np.bool_]

    def __getitem__(self, rows: slice) -> Crops:
        """Returns the crops of a range of images."""
        return Crops(self.tops[rows], self.lefts[rows], self.flips[rows])

    @classmethod
    def draw(
        cls,
        random: np.random.Generator,
        count: int,
        *,
        load_size: tuple[int, int],
        crop_size: tuple[int, int],
        flip: bool,
    ) -> Crops:
        """Draws uniform positions and, with probability ½, mirroring.

        Args:
            random: Source of random numbers. It advances by the same amount whatever `flip` is.
            count: Number of images.
            load_size: Height and width of the images.
            crop_size: Height and width of the crops.
            flip: Whether crops may be mirrored.
        """
        tops = random.integers(0, load_size[0] - crop_size[0], count, endpoint=True)
        lefts = random.integers(0, load_size[1] - crop_size[1], count, endpoint=True)
        flips = random.random(count) < 0.5
        return cls(tops, lefts, flips & flip)


class TrainingBatches:
    """Training batches as a pure function of seed and step: a resumed run sees the same images as an unbroken one.

    An epoch visits every source image once, in a new order. Images that do not fill a last batch are left out of that
    epoch. Both images of a pair are cropped and mirrored alike; unpaired images are cropped and mirrored independently.

    Unpaired data (method section 8): the larger domain sets the length of an epoch. Source images repeat if there are
    fewer of them, and each source image meets a random target image.

    Differs: the published implementation never sees the last image of an unpaired folder.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        *,
        batch_size: int,
        flip: bool,
        seed: int,
        section: str = "teacher",
        pinned: bool = False,
    ) -> None:
        """Prepares batches of a dataset's training split.

        Args:
            dataset: The dataset to read.
            batch_size: Images per batch.
            flip: Whether crops are mirrored with probability ½.
            seed: Seed of the order of images, their partners and their crops.
            section: The section of the recipe, for messages.
            pinned: Whether batches lie in page-locked memory, which needs CUDA.

        Raises:
            UserError: A domain has no training images, or there are fewer than one batch.
        """
        self._dataset = dataset
        self._pinned = pinned
        self._batch_size = batch_size
        self._flip = flip
        self._seed = seed
        split = dataset.split("train")
        # Plain views of the memory maps: indexing `np.memmap` costs more than copying a small image.
        self._source, self._target = np.asarray(split.source), np.asarray(split.target)
        self._instances = None if split.instances is None else np.asarray(split.instances)
        self._order: tuple[int, NDArray[np.int64]] | None = None
        self._num_images = check_batch_size(dataset, batch_size=batch_size, section=section)
        self.steps_per_epoch = self._num_images // batch_size
        """Number of full batches in an epoch."""

    def batch(self, step: int, rows: slice = slice(None)) -> PackedBatch:
        """Returns the batch of a step. Several threads may ask at the same time.

        Args:
            step: Number of the step, counted from 0 over all epochs.
            rows: Range of images to return. Each process of a distributed training takes its share of every batch.
        """
        return self._batch(step, rows)

    def sample(self, count: int) -> PackedBatch:
        """Returns the first images that training sees, as the crops that it sees.

        Args:
            count: Number of images; they repeat if there are fewer.
        """
        first = [self._batch(step, slice(None)) for step in range(-(-count // self._batch_size))]
        source, target = (torch.cat([getattr(batch, side) for batch in first])[:count] for side in ("source", "target"))
        instances = [batch.instances for batch in first if batch.instances is not None]
        return PackedBatch(source, target, torch.cat(instances)[:count] if instances else None, self._dataset.summary)

    def _batch(self, step: int, rows: slice) -> PackedBatch:
        epoch, position = divmod(step, self.steps_per_epoch)
        chosen = self._epoch_order(epoch)[position * self._batch_size :][: self._batch_size]
        source_crops = self._draw_crops(_SOURCE_CROPS, step)
        if self._dataset.pairing == "unpaired":
            partners = self._random(_PARTNERS, step).integers(0, len(self._target), self._batch_size)
            target_crops = self._draw_crops(_TARGET_CROPS, step)
        else:
            partners, target_crops = chosen, source_crops
        chosen, partners = chosen[rows] % len(self._source), partners[rows]
        source_crops, target_crops = source_crops[rows], target_crops[rows]
        packed = PackedBatch(
            self._cut(self._source, chosen, source_crops),
            self._cut(self._target, partners, target_crops),
            None if self._instances is None else self._cut(self._instances, chosen, source_crops),
            self._dataset.summary,
        )
        return packed.pinned() if self._pinned else packed

    def _random(self, stream: int, index: int) -> np.random.Generator:
        return np.random.default_rng([self._seed, stream, index])

    def _epoch_order(self, epoch: int) -> NDArray[np.int64]:
        known = self._order
        if known is None or known[0] != epoch:
            known = self._order = epoch, self._random(_SHUFFLE, epoch).permutation(self._num_images)
        return known[1]

    def _draw_crops(self, stream: int, step: int) -> Crops:
        return Crops.draw(
            self._random(stream, step),
            self._batch_size,
            load_size=self._dataset.load_size,
            crop_size=self._dataset.crop_size,
            flip=self._flip,
        )

    def _cut(self, images: NDArray, chosen: NDArray[np.int64], crops: Crops) -> Tensor:
        return torch.from_numpy(crop_and_flip(images, chosen, crops, self._dataset.crop_size))


def evaluation_batches(
    dataset: PackedDataset,
    *,
    batch_size: int,
    split: SplitName = "test",
    limit: int | None = None,
    device: torch.device | str = "cpu",
) -> Iterator[Batch]:
    """Yields the images of a split in order, neither cropped nor mirrored.

    Unpaired sources and targets may differ in number. The shorter side then ends first: its tensors have fewer rows,
    down to none. Training images are stored at load size and are resized, not cropped, to the crop size.

    Args:
        dataset: The dataset to read.
        batch_size: Images per batch; the last batch may be smaller.
        split: The split to read.
        limit: Read at most this many images of each side (the first ones); None reads all.
        device: Where the batches go.
    """
    images = dataset.split(split)
    count = max(len(images.source), len(images.target))
    count = count if limit is None else min(count, limit)
    for start in range(0, count, batch_size):
        rows = slice(start, min(start + batch_size, count))
        source, target, instances = (
            None if part is None else channels_first(_at_crop_size(part[rows], dataset.crop_size))
            for part in (images.source, images.target, images.instances)
        )
        assert source is not None and target is not None
        yield PackedBatch(source, target, instances, dataset.summary).to(device)


def crop_and_flip(images: NDArray, chosen: NDArray[np.int64], crops: Crops, size: tuple[int, int]) -> NDArray:
    """Cuts one crop out of each chosen image and mirrors it where `crops.flips` is true.

    Args:
        images: [M, H, W] or [M, H, W, C], any type.
        chosen: Rows of `images` to cut from, int64 [N].
        crops: Positions and mirroring of the N crops.
        size: Height and width of the crops.

    Returns:
        [N, height, width] or, channels first, [N, C, height, width], of the type of `images`.
    """
    height, width = size
    cut = np.empty((len(chosen), *images.shape[3:], height, width), dtype=images.dtype)
    for row, (index, top, left, flip) in enumerate(zip(chosen, crops.tops, crops.lefts, crops.flips, strict=True)):
        crop = images[index, top : top + height, left : left + width]
        crop = crop[:, ::-1] if flip else crop
        cut[row] = np.moveaxis(crop, -1, 0) if crop.ndim == 3 else crop
    return cut


def to_unit_range(images_NCHW: NDArray | Tensor, values: ValuesConfig = RGB) -> Tensor:
    """Converts packed numbers [N, C, H, W] to float32 in [-1, 1]: the lowest value of their range becomes -1.

    Args:
        images_NCHW: The numbers, in NumPy's memory or on any device with float64.
        values: What they mean.

    Returns:
        The images on the device of the numbers; on every device the same ones, to the last bit.
    """
    numbers = images_NCHW if isinstance(images_NCHW, Tensor) else torch.from_numpy(images_NCHW)
    if (values.type, values.range) == (RGB.type, RGB.range):
        # GPUs multiply by the reciprocal of a Python number, which rounds differently.
        return numbers.to(torch.float32).div_(torch.full((), 127.5, device=numbers.device)).sub_(1)
    low, high = values.range
    return (numbers.to(torch.float64) - low).mul_(2 / (high - low)).sub_(1).to(torch.float32)


def channels_first(images: NDArray) -> Tensor:
    """Copies packed images, [N, H, W] or [N, H, W, C], channels first; torch takes no read-only memory."""
    return torch.from_numpy((images.transpose(0, 3, 1, 2) if images.ndim == 4 else images).copy())


def _at_crop_size(images: NDArray, size: tuple[int, int]) -> NDArray:
    if images.shape[1:3] == size:
        return images
    resized = np.empty((len(images), *size, *images.shape[3:]), dtype=images.dtype)
    for row, image in enumerate(images):
        resized[row] = resize(as_image(image), size)
    return resized
