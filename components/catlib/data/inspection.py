"""What packed images are like: sizes, brightness, classes, doubles and samples, so that mistakes in data show early.

Two files of the dataset artifact hold it. `report.json`:

    images        split -> role -> count, original sizes (width×height -> count), and
                  of pictures `histogram`: channel -> share of pixels in each of 32 steps of brightness,
                  of label maps `classes`: share of pixels per class, and `no_class` (label 255)
    duplicates    held-out images that occur in training too: count and the first ones by role and names
    left_out      files that were skipped, and why

`samples.webp`: training and held-out images spread evenly over the data, source above target, label maps in colour.
"""

from __future__ import annotations

import collections
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.catlib.data.colours import label_colours
from components.catlib.data.duplicates import find_duplicates, thumbnail
from components.catlib.data.packed import DONT_CARE, SPLITS, LeftOut, Role, SplitName

logger = logging.getLogger(__name__)

REPORT = "report.json"
SAMPLES = "samples.webp"

STEPS = 32
"""Steps of brightness in a histogram."""

SIZES_LISTED = 8
DUPLICATES_LISTED = 50
SAMPLES_PER_SPLIT = 8
SAMPLE_HEIGHT = 128
"""Pixels; samples are made smaller, never larger."""
WEBP_QUALITY = 80


@dataclass(frozen=True)
class ImageFacts:
    """What is noted of one image.

    Attributes:
        size: Original width and height.
        histogram: int64 [3, 256], pixels per brightness of red, green and blue; of a label map [1, 256], pixels per
            label.
        thumbnail: uint8 [16, 17] of a picture, None of a label map.
    """

    size: tuple[int, int]
    histogram: NDArray[np.int64]
    thumbnail: NDArray[np.uint8] | None

    @classmethod
    def of(cls, packed: NDArray[Any], size: tuple[int, int]) -> ImageFacts:
        """Notes the facts of a packed image: uint8 [H, W, 3], or labels [H, W]."""
        image = Image.fromarray(packed)
        histogram = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
        return cls(size, histogram, thumbnail(image) if image.mode == "RGB" else None)


@dataclass
class RoleFacts:
    """The facts of all images of a role in a split, in the order of their rows."""

    sizes: collections.Counter[tuple[int, int]] = field(default_factory=collections.Counter)
    histogram: NDArray[np.int64] | None = None
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)

    def add(self, facts: ImageFacts) -> None:
        """Takes the next image."""
        self.sizes[facts.size] += 1
        self.histogram = facts.histogram if self.histogram is None else self.histogram + facts.histogram
        if facts.thumbnail is not None:
            self.thumbnails.append(facts.thumbnail)

    def summary(self, num_labels: int | None) -> dict[str, Any]:
        """Returns the role's part of `report.json`."""
        listed = {f"{width}×{height}": count for (width, height), count in self.sizes.most_common(SIZES_LISTED)}
        others = self.sizes.total() - sum(listed.values())
        summary: dict[str, Any] = {
            "count": self.sizes.total(),
            "sizes": listed | ({"others": others} if others else {}),
        }
        if self.histogram is None:
            return summary
        shares = self.histogram / self.histogram.sum(axis=1, keepdims=True)
        if len(shares) == 1 and num_labels is not None:
            summary["classes"] = np.round(shares[0, :num_labels], 6).tolist()
            summary["no_class"] = round(float(shares[0, DONT_CARE]), 6)
        else:
            steps = shares.reshape(len(shares), STEPS, -1).sum(axis=2)
            summary["histogram"] = dict(zip(("red", "green", "blue"), np.round(steps, 6).tolist(), strict=True))
        return summary


class Inspection:
    """Collects facts while images are packed and reports them at the end."""

    def __init__(self, num_labels: int | None) -> None:
        """Begins without images.

        Args:
            num_labels: Number of classes when source images are label maps.
        """
        self._num_labels = num_labels
        self._facts: dict[tuple[SplitName, Role], RoleFacts] = collections.defaultdict(RoleFacts)

    def add(self, split: SplitName, facts: Mapping[Role, ImageFacts]) -> None:
        """Takes the images of the next row of a split."""
        for role, of_image in facts.items():
            self._facts[split, role].add(of_image)

    def duplicates(self, names: Mapping[SplitName, Mapping[Role, list[str]]]) -> list[dict[str, str]]:
        """Finds held-out images that occur in training too, and warns of them.

        Args:
            names: Of the rows, by split and role.

        Returns:
            Role, held-out image and its double in training, by name.
        """
        found = []
        for role in ("source", "target"):
            held_out, training = (self._facts["test", role].thumbnails, self._facts["train", role].thumbnails)
            if held_out and training:
                found += [
                    {"role": role, "test": names["test"][role][row], "train": names["train"][role][double]}
                    for row, double in find_duplicates(np.stack(held_out), np.stack(training))
                ]
        if found:
            logger.warning(
                "%d held-out images occur among the training images too, for example %s (test) and %s (train); "
                "scores will look better than they are",
                len(found),
                found[0]["test"],
                found[0]["train"],
            )
        return found

    def report(self, duplicates: list[dict[str, str]], left_out: list[LeftOut]) -> dict[str, Any]:
        """Returns the content of `report.json`."""
        roles: tuple[Role, ...] = ("source", "target")
        return {
            "images": {
                split: {role: self._facts[split, role].summary(self._num_labels) for role in roles} for split in SPLITS
            },
            "duplicates": {"count": len(duplicates), "first": duplicates[:DUPLICATES_LISTED]},
            "left_out": [one.model_dump() for one in left_out],
        }


def sample_picture(
    images: Mapping[tuple[SplitName, Role], NDArray[np.uint8]], num_labels: int | None
) -> Image.Image | None:
    """Puts a few images of every split side by side.

    Args:
        images: Packed images [N, H, W, 3], or label maps [N, H, W], by split and role.
        num_labels: Number of classes of label maps.

    Returns:
        A row of pictures per split and role; None without images.
    """
    rows = [list(_samples(array, num_labels)) for array in images.values() if len(array)]
    if not rows:
        return None
    width, height = max(sample.width for row in rows for sample in row), max(row[0].height for row in rows)
    picture = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for y, row in enumerate(rows):
        for x, sample in enumerate(row):
            picture.paste(sample, (x * width, y * height))
    return picture


def _samples(images: NDArray[np.uint8], num_labels: int | None) -> Iterator[Image.Image]:
    for index in np.linspace(0, len(images) - 1, min(SAMPLES_PER_SPLIT, len(images))).round().astype(int):
        image = Image.fromarray(np.asarray(images[index]))
        if image.mode == "L" and num_labels is not None:
            colours = np.zeros((256, 3), dtype=np.uint8)
            colours[:num_labels] = label_colours(num_labels)
            image.putpalette(colours.tobytes())
            image = image.convert("RGB")
        scale = min(1.0, SAMPLE_HEIGHT / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        yield image.resize(size, Image.Resampling.LANCZOS)
