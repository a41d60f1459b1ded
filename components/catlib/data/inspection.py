"""Describes packed images (sizes, brightness, classes, duplicates, samples), so that mistakes in data show early.

The description fills two files of the dataset artifact. `report.json`:

    images        split -> role -> `count`, `sizes` (original width×height -> count), and
                  for pictures `histogram`: channel -> share of pixels in each of 32 steps of brightness, and for
                  other numbers than 8-bit colours the `range` of the steps,
                  for label maps `classes`: share of pixels per class, and `no_class`: share of label 255
    duplicates    held-out images that also occur in training: their count, and role and names of the first ones
    left_out      files that were skipped, each with the reason
    odd_halves    A|B images whose halves have other proportions than those of most: their count, split, name and size
    warnings      sentences about what is suspicious in the images
    small         sentences about numbers of images that are small for what they are used for

`samples.webp`: training and held-out images spread evenly over the data, source above target, label maps in colour.
"""

from __future__ import annotations

import collections
import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.catlib.config.dataset import RGB, ValuesConfig
from components.catlib.data.channels import as_colours, channel_names, to_8_bits
from components.catlib.data.colours import label_colours
from components.catlib.data.duplicates import find_duplicates, thumbnail
from components.catlib.data.packed import SPLITS, ImageRole, LeftOut, Pairing, SplitName
from components.catlib.data.samples import DONT_CARE, DecodedImage, Raster
from components.catlib.data.suspicions import Marks, Pictures, about_channels, about_numbers
from components.catlib.errors import UserError

logger = logging.getLogger(__name__)

REPORT = "report.json"
SAMPLES = "samples.webp"

STEPS = 32
"""Number of brightness steps in a histogram."""

SIZES_LISTED = 8
DUPLICATES_LISTED = 50
DARK = 64
"""Pictures without a brighter value, of 255, use 6 of their 8 bits at most."""

MOSTLY = 0.5
"""Share of pixels without a class from which a warning is due."""

HALVES_DIFFER = 1.1
"""Ratio of proportions (width / height) from which two images differ."""

SAMPLES_PER_SPLIT = 8
SAMPLE_HEIGHT = 128
"""Largest height of a sample in pixels; smaller images are not enlarged."""
SAMPLES_QUALITY = 80


@dataclass(frozen=True)
class ImageFacts:
    """The facts about one image that the report needs.

    Attributes:
        size: Original width and height.
        histogram: Pictures: int64 [C, 256], pixels per brightness, 8 bits of the range, of each channel. Label maps:
            int64 [1, 256], pixels per label.
        thumbnail: Pictures: uint8 [16, 17]. Label maps: None.
        marks: What is noted about the channels of colour pictures. Others: None.
    """

    size: tuple[int, int]
    histogram: NDArray[np.int64]
    thumbnail: NDArray[np.uint8] | None
    marks: Marks | None = None

    @classmethod
    def of(cls, packed: NDArray[Any], original: DecodedImage, values: ValuesConfig | None) -> ImageFacts:
        """Collects the facts about one image.

        Args:
            packed: The packed image, [H, W, C], or labels, uint8 [H, W].
            original: The image as it was decoded.
            values: What the numbers mean; None for labels.
        """
        if isinstance(original, Raster):
            assert values is not None, "label maps are no rasters"
            planes = np.moveaxis(to_8_bits(packed, values), 2, 0)
            histogram = np.stack([np.bincount(plane.ravel(), minlength=256) for plane in planes])
            return cls(original.size, histogram, thumbnail(Image.fromarray(as_colours(packed, values))))
        image = Image.fromarray(packed)
        histogram = np.array(image.histogram(), dtype=np.int64).reshape(-1, 256)
        if values is None:
            return cls(original.size, histogram, None)
        return cls(original.size, histogram, thumbnail(image), Marks.of(packed, histogram, original))


@dataclass
class RoleFacts:
    """The facts about all images of one role in one split, ordered by row."""

    sizes: collections.Counter[tuple[int, int]] = field(default_factory=collections.Counter)
    histogram: NDArray[np.int64] | None = None
    thumbnails: list[NDArray[np.uint8]] = field(default_factory=list)
    marks: list[Marks] = field(default_factory=list)

    def add(self, facts: ImageFacts) -> None:
        """Adds the next image."""
        self.sizes[facts.size] += 1
        self.histogram = facts.histogram if self.histogram is None else self.histogram + facts.histogram
        if facts.thumbnail is not None:
            self.thumbnails.append(facts.thumbnail)
        if facts.marks is not None:
            self.marks.append(facts.marks)

    def summary(self, num_labels: int | None, values: ValuesConfig | None) -> dict[str, Any]:
        """Returns the part of `report.json` about this role.

        Args:
            num_labels: Number of classes of label maps; None for pictures.
            values: What the numbers of pictures mean; None for label maps.
        """
        listed = {f"{width}×{height}": count for (width, height), count in self.sizes.most_common(SIZES_LISTED)}
        others = self.sizes.total() - sum(listed.values())
        summary: dict[str, Any] = {
            "count": self.sizes.total(),
            "sizes": listed | ({"others": others} if others else {}),
        }
        if self.histogram is None:
            return summary
        shares = self.histogram / self.histogram.sum(axis=1, keepdims=True)
        if values is None:
            summary["classes"] = np.round(shares[0, :num_labels], 6).tolist()
            summary["no_class"] = round(float(shares[0, DONT_CARE]), 6)
        else:
            steps = shares.reshape(len(shares), STEPS, -1).sum(axis=2)
            summary["histogram"] = dict(zip(channel_names(values), np.round(steps, 6).tolist(), strict=True))
            if values != RGB:
                summary["range"] = list(values.range)
        return summary


class Inspection:
    """Collects facts while images are packed, and reports them at the end."""

    def __init__(
        self,
        num_labels: int | None,
        *,
        pairing: Pairing = "paired",
        halves: bool = False,
        values: Mapping[Any, ValuesConfig] | None = None,
    ) -> None:
        """Starts without images.

        Args:
            num_labels: Number of classes when source images are label maps, else None.
            pairing: How training uses the images.
            halves: Whether the images are halves of A|B images, whose proportions are compared.
            values: What the numbers of pictures mean, by role; None: all are 8-bit colours.
        """
        self._num_labels = num_labels
        self._pairing: Pairing = pairing
        pictures = ("target",) if num_labels is not None else ("source", "target")
        self._values: Mapping[Any, ValuesConfig] = dict.fromkeys(pictures, RGB) if values is None else values
        self._halves: dict[tuple[int, int], list[tuple[SplitName, str]]] | None = {} if halves else None
        self._facts: dict[tuple[SplitName, ImageRole], RoleFacts] = collections.defaultdict(RoleFacts)

    def add(self, split: SplitName, name: str, facts: Mapping[ImageRole, ImageFacts]) -> None:
        """Adds the images of a split's next row, and the row's name."""
        if self._halves is not None and "source" in facts:
            self._halves.setdefault(facts["source"].size, []).append((split, name))
        for role, of_image in facts.items():
            self._facts[split, role].add(of_image)

    def duplicates(self, names: Mapping[SplitName, Mapping[ImageRole, list[str]]]) -> list[dict[str, str]]:
        """Finds held-out images that also occur in training, and logs a warning about them.

        Args:
            names: Split -> role -> name of each row.

        Returns:
            One entry per duplicate: its `role`, the name of the held-out image (`test`) and of its double (`train`).
        """
        found = []
        for role in ("source", "target"):
            held_out, training = (self._facts["test", role].thumbnails, self._facts["train", role].thumbnails)
            if held_out and training:
                held_out_names, training_names = names["test"][role], names["train"][role]
                found += [
                    {"role": role, "test": held_out_names[row], "train": training_names[double]}
                    for row, double in find_duplicates(np.stack(held_out), np.stack(training))
                ]
        if found:
            logger.warning(
                "%d held-out images also occur among the training images, for example %s (test) and %s (train); "
                "scores will look better than they are",
                len(found),
                found[0]["test"],
                found[0]["train"],
            )
        return found

    def odd_halves(self) -> list[dict[str, str]]:
        """Returns the A|B images whose halves have other proportions than those of most: `split`, `name` and `size`."""
        if not self._halves:
            return []
        (width, height), _ = max(self._halves.items(), key=lambda entry: len(entry[1]))
        return [
            {"split": split, "name": name, "size": f"{other_width}×{other_height}"}
            for (other_width, other_height), named in self._halves.items()
            if abs(math.log(other_width * height / (other_height * width))) > math.log(HALVES_DIFFER)
            for split, name in named
        ]

    def warnings(self) -> list[str]:
        """Returns sentences about what is suspicious in the images.

        Raises:
            UserError: Training sees one class at most, of several.
        """
        found = []
        for (split, role), facts in self._facts.items():
            if facts.histogram is None or split != "train":
                continue
            if role in self._values:
                found += _about_brightness(facts.histogram, role, self._values[role])
            elif self._num_labels is not None:
                found += _about_classes(facts.histogram[0], self._num_labels)
        pictures = {
            key: Pictures(facts.marks, facts.histogram)
            for key, facts in self._facts.items()
            if facts.marks and facts.histogram is not None
        }
        found += about_channels(pictures, paired=self._pairing == "paired")
        if odd := self.odd_halves():
            found.append(
                f"the halves of {len(odd)} A|B images have other proportions than those of most, for example "
                f"{odd[0]['name']} of {odd[0]['split']} with {odd[0]['size']} (width×height); are they single pictures?"
            )
        return found

    def report(self, duplicates: list[dict[str, str]], left_out: list[LeftOut], warnings: list[str]) -> dict[str, Any]:
        """Returns the content of `report.json`.

        Args:
            duplicates: The result of `duplicates`.
            left_out: Files that were skipped.
            warnings: Sentences about what is suspicious.
        """
        roles: tuple[ImageRole, ...] = ("source", "target")
        return {
            "images": {
                split: {
                    role: self._facts[split, role].summary(self._num_labels, self._values.get(role)) for role in roles
                }
                for split in SPLITS
            },
            "duplicates": {"count": len(duplicates), "first": duplicates[:DUPLICATES_LISTED]},
            "left_out": [one.model_dump() for one in left_out],
            "warnings": warnings,
            "small": about_numbers({key: facts.sizes.total() for key, facts in self._facts.items()}, self._pairing),
            "odd_halves": {"count": len(odd := self.odd_halves()), "first": odd[:DUPLICATES_LISTED]},
        }


def _about_classes(pixels: NDArray[np.int64], num_labels: int) -> list[str]:
    """Returns sentences about classes that training never sees.

    Raises:
        UserError: It sees one class at most, of several.
    """
    there = [label for label in range(num_labels) if pixels[label]]
    no_class = pixels[DONT_CARE] / pixels.sum()
    if num_labels > 1 and len(there) < 2:
        raise UserError(
            f"Of the {num_labels} classes of dataset.num_labels, the training label maps hold "
            f"{f'only class {there[0]}' if there else 'none'}, and {no_class:.0%} of their pixels have the label "
            f"{DONT_CARE}, which means no class; number the classes 0 … {num_labels - 1} in the files."
        )
    found = []
    if absent := [str(label) for label in range(num_labels) if not pixels[label]]:
        found.append(f"of {num_labels} classes, these never occur in training label maps: {', '.join(absent)}")
    if no_class > MOSTLY:
        found.append(f"{no_class:.0%} of the pixels of training label maps have no class (label {DONT_CARE})")
    return found


def _about_brightness(histogram: NDArray[np.int64], role: ImageRole, values: ValuesConfig) -> list[str]:
    """Returns sentences about pictures that use a small part of their range, and channels that say nothing."""
    found = []
    used = np.flatnonzero(histogram.sum(axis=0))
    darkest, brightest = int(used[0]), int(used[-1])
    names = channel_names(values)
    constant = [name for name, row in zip(names, histogram, strict=True) if np.count_nonzero(row) == 1]
    if constant:
        found.append(f"the {' and '.join(constant)} of all {role} pictures for training is constant")
    elif values != RGB and brightest - darkest <= DARK:
        low, high = values.range
        first, last = (low + (high - low) * step / 255 for step in (darkest, brightest))
        setting = f"dataset.{role}_values.range"
        found.append(
            f"the {role} images for training hold values from about {first:.3g} to {last:.3g}, a small part of "
            f"{setting} [{low:.9g}, {high:.9g}]; set {setting} to the lowest and highest value of all files"
        )
    elif values == RGB and brightest <= DARK:
        in_16_bits = 2 ** math.ceil(math.log2((brightest - 0.5) * 257 + 1)) - 1
        channels = 1 if all(np.array_equal(row, histogram[0]) for row in histogram) else 3
        found.append(
            f"the brightest value of the {role} pictures for training is {brightest} of 255, so they hold few grey "
            f"levels; if the files have 16 bits, set dataset.{role}_values to {{channels: {channels}, range: [0, "
            f"{in_16_bits}]}} with their largest value, else brighten them"
        )
    return found


def sample_picture(
    images: Mapping[tuple[SplitName, ImageRole], NDArray[Any]],
    num_labels: int | None,
    values: Mapping[Any, ValuesConfig],
) -> Image.Image | None:
    """Puts a few images of every split side by side.

    Args:
        images: Split and role -> packed images, [N, H, W, C], or label maps, uint8 [N, H, W].
        num_labels: Number of classes of label maps; None if there are none.
        values: What the numbers of pictures mean, by role.

    Returns:
        A picture with one row of images per split and role; None if there are no images at all.
    """
    rows = [list(_samples(array, num_labels, values.get(role))) for (_, role), array in images.items() if len(array)]
    if not rows:
        return None
    width, height = max(sample.width for row in rows for sample in row), max(row[0].height for row in rows)
    picture = Image.new("RGB", (width * max(map(len, rows)), height * len(rows)))
    for y, row in enumerate(rows):
        for x, sample in enumerate(row):
            picture.paste(sample, (x * width, y * height))
    return picture


def _samples(images: NDArray[Any], num_labels: int | None, values: ValuesConfig | None) -> Iterator[Image.Image]:
    for index in np.linspace(0, len(images) - 1, min(SAMPLES_PER_SPLIT, len(images))).round().astype(int):
        packed = np.asarray(images[index])
        image = Image.fromarray(packed if values is None else as_colours(packed, values))
        if image.mode == "L" and num_labels is not None:
            colours = np.zeros((256, 3), dtype=np.uint8)
            colours[:num_labels] = label_colours(num_labels)
            image.putpalette(colours.tobytes())
            image = image.convert("RGB")
        scale = min(1.0, SAMPLE_HEIGHT / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        yield image.resize(size, Image.Resampling.LANCZOS)
