"""The packed dataset, which the dataset stage writes and every later stage reads.

A dataset artifact consists of a few large files, so that a pod fetches few objects and reads images without decoding.
For example, four paired images, three of them for training, with load size 72×72 and crop size 64×64 become

    train_source.npy   uint8 [3, 72, 72, 3]   already resized to the load size; batches cut random crops from them
    train_target.npy   uint8 [3, 72, 72, 3]   row i is the partner of row i of the source
    test_source.npy    uint8 [1, 64, 64, 3]   resized from the original straight to the crop size: nothing is cut
    test_target.npy    uint8 [1, 64, 64, 3]
    names.json         {"train": {"source": ["a", "b", "d"], "target": ["a", "b", "d"]}, "test": {"source": ["c"], …}}
    manifest.json      pairing, sizes, counts, provenance (`PackedSummary`), digests of the files

    report.json        description of the images: counts, sizes, histograms, duplicates (`inspection.py`)
    samples.webp       a few of the images

There are five variations:

- *Values* other than 8-bit colours (`dataset.source_values`, `dataset.target_values`): uint8, uint16 or float32
  [N, H, W, C], with 1 to 16 channels; the manifest states their range.
- *Unpaired* data: source and target arrays may differ in length, and their rows are unrelated. `reference_source.npy`
  and `reference_target.npy` hold the training images once more, resized from the originals straight to the crop size:
  feature distances also compare with those. They are left out if load size and crop size are equal.
- *Label maps*: the source is uint8 [N, H, W] and holds class numbers; 255 means "don't care".
- *Instances*: there are also `train_instances.npy` and `test_instances.npy`, int32 [N, H, W].
- *Ground truth* (Cityscapes): `test_ground_truth.zip` holds the scored classes of the held-out images at their original
  size (`ground_truth.py`).

A source without targets gives target arrays of length 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from components.catlib.artifacts import MANIFEST, Manifest, read_manifest
from components.catlib.config.dataset import RGB, DatasetDirection, PictureRole, ValuesConfig
from components.catlib.data.ground_truth import GROUND_TRUTH, GroundTruth
from components.catlib.errors import UserError

Pairing = Literal["paired", "unpaired", "labels"]
SplitName = Literal["train", "test"]
ImageRole = Literal["source", "target", "instances", "ground_truth"]

SPLITS: tuple[SplitName, ...] = ("train", "test")
NAMES = "names.json"


class LeftOut(BaseModel):
    """An unusable image that was left out (`on_error: skip`)."""

    model_config = ConfigDict(extra="forbid")

    file: str = Field(description="path of the image")
    reason: str = Field(description="why the image cannot be used")
    advice: str = Field(default="", exclude=True, description="what to do, if that is not to repair or remove the file")


class PackedSummary(BaseModel):
    """The facts about a packed dataset in its manifest."""

    model_config = ConfigDict(extra="forbid")

    pairing: Pairing = Field(description="paired images, unpaired images, or label maps with their images")
    direction: DatasetDirection = Field(description="which domain became the source")
    load_size: tuple[int, int] = Field(description="height, width of training images")
    crop_size: tuple[int, int] = Field(description="height, width of training crops and of test images")
    values: dict[PictureRole, ValuesConfig] = Field(
        default={"source": RGB, "target": RGB}, description="type, channels and range of the pictures, by role"
    )
    num_labels: int | None = Field(description="label maps only: number of classes")
    dont_care_plane: bool = Field(description="label maps only: whether label 255 has a semantic plane of its own")
    has_instances: bool = Field(description="label maps only: whether the dataset also holds instance ids")
    has_ground_truth: bool = Field(description="whether the dataset also holds the test images' true classes, for mIoU")
    test_is_paired: bool = Field(description="whether row i of the test target belongs to row i of the test source")
    images: dict[SplitName, dict[Literal["source", "target"], int]] = Field(
        description="number of images by split and role"
    )
    provenance: dict[str, Any] = Field(description="origin of the images, how they were split, and their licence")
    skipped: list[LeftOut] = Field(description="images left out because they could not be read or paired")
    metrics: dict[str, int] = Field(description="main figures, by name: image counts per split, skipped, duplicate")


Names = dict[Literal["source", "target"], list[str]]
"""Names of the images of a split, in the order of the rows of its arrays."""

_NAMES = TypeAdapter(dict[SplitName, Names])


@dataclass(frozen=True)
class Split:
    """The images of one split, mapped into memory.

    Attributes:
        source: [N, H, W, C], uint8 with 3 channels unless `values` state more; or labels, uint8 [N, H, W].
        target: [M, H, W, C], as the source. In a paired split M = N, and row i belongs to row i of the source.
        instances: int32 [N, H, W], or None.
        ground_truth: N maps of scored classes at the images' original size, for mIoU, or None.
        names: Names of the N source images: paths below their folder, without suffix.
        target_names: Names of the M target images.
    """

    source: NDArray[Any]
    target: NDArray[Any]
    instances: NDArray[np.int32] | None
    ground_truth: GroundTruth | None
    names: tuple[str, ...]
    target_names: tuple[str, ...]


@dataclass(frozen=True)
class PackedDataset:
    """A dataset artifact opened for reading; images stay on disk until they are used.

    Attributes:
        folder: Where it lies.
        manifest: Of the artifact.
        summary: What the manifest says about the images.
        splits: The images.
    """

    folder: Path
    manifest: Manifest
    summary: PackedSummary
    splits: dict[SplitName, Split]

    @classmethod
    def open(cls, folder: Path) -> PackedDataset:
        """Opens a dataset artifact.

        Raises:
            UserError: The folder is not a dataset artifact, is damaged, or has arrays that do not match its manifest.
        """
        manifest = read_manifest(folder, "dataset")
        try:
            summary = PackedSummary.model_validate(manifest.summary)
            names = _NAMES.validate_json((folder / NAMES).read_bytes())
        except (ValidationError, OSError, ValueError) as error:
            raise UserError(f"{folder / MANIFEST} or {NAMES} is damaged; run the dataset stage again.") from error
        splits: dict[SplitName, Split] = {
            split: _open_split(folder, summary, split, names.get(split, {})) for split in SPLITS
        }
        return cls(folder, manifest, summary, splits)

    def split(self, name: SplitName) -> Split:
        """Returns the images of a split: training images at load size, test images at crop size."""
        return self.splits[name]

    def real_images(self, domain: Literal["source", "target"]) -> dict[SplitName, NDArray[np.uint8]]:
        """Returns the images that generated images of a domain are compared with as a set (method section 7).

        Paired data and label maps: the test images. Unpaired data: the training and the test images.

        Args:
            domain: "source" or "target".

        Returns:
            Split -> uint8 [N, H, W, 3] at crop size, each resized once, from the original.

        Raises:
            UserError: An earlier version packed the dataset, or it is damaged.
        """
        held_out = getattr(self.split("test"), domain)
        if self.pairing != "unpaired":
            return {"test": held_out}
        if has_references(self.summary):
            return {"train": _open_array(self.folder, self.summary, "train", domain, reference=True), "test": held_out}
        return {"train": getattr(self.split("train"), domain), "test": held_out}

    @property
    def pairing(self) -> Pairing:
        """Whether training images are paired, unpaired, or label maps with their images."""
        return self.summary.pairing

    @property
    def load_size(self) -> tuple[int, int]:
        """Height and width of training images."""
        return self.summary.load_size

    @property
    def crop_size(self) -> tuple[int, int]:
        """Height and width of training crops and of test images."""
        return self.summary.crop_size

    @property
    def values(self) -> dict[PictureRole, ValuesConfig]:
        """What the numbers of source and target pictures mean; the source has no entry if it is label maps."""
        return self.summary.values

    @property
    def num_labels(self) -> int | None:
        """Number of classes of label maps; None for pictures."""
        return self.summary.num_labels

    @property
    def dont_care_plane(self) -> bool:
        """Whether label 255 has a semantic plane of its own."""
        return self.summary.dont_care_plane

    @property
    def has_instances(self) -> bool:
        """Whether the dataset holds instance ids; their edges become the last semantic plane."""
        return self.summary.has_instances

    @property
    def has_ground_truth(self) -> bool:
        """Whether the test split has maps of scored classes at original size, for mIoU."""
        return self.summary.has_ground_truth

    @property
    def test_is_paired(self) -> bool:
        """Whether test images can be compared one by one with their true targets."""
        return self.summary.test_is_paired

    @property
    def in_channels(self) -> int:
        """Channels of a generator's input: those of pictures, or the semantic planes (method section 1.2)."""
        if self.num_labels is None:
            return self.values["source"].channels
        return self.num_labels + self.dont_care_plane + self.has_instances

    @property
    def out_channels(self) -> int:
        """Channels of a generator's output."""
        return self.values["target"].channels


def array_file(split: SplitName, role: ImageRole) -> str:
    """Returns the file name of an array, for example `train_source.npy`."""
    return f"{split}_{role}.npy"


def reference_file(role: ImageRole) -> str:
    """Returns the file name of unpaired training images at crop size, for example `reference_source.npy`."""
    return f"reference_{role}.npy"


def has_references(summary: PackedSummary) -> bool:
    """Returns whether training images are packed once more, at crop size."""
    return summary.pairing == "unpaired" and summary.load_size != summary.crop_size


def array_layout(summary: PackedSummary, split: SplitName, role: ImageRole) -> tuple[type[np.generic], tuple[int, ...]]:
    """Returns the element type of an array and the shape of one row."""
    size = summary.load_size if split == "train" else summary.crop_size
    if role == "instances":
        return np.int32, size
    if role == "source" and summary.pairing == "labels":
        return np.uint8, size
    values = summary.values["target" if role == "target" else "source"]
    return np.dtype(values.type).type, (*size, values.channels)


def _open_split(folder: Path, summary: PackedSummary, split: SplitName, names: Names) -> Split:
    source, target = (_open_array(folder, summary, split, role) for role in ("source", "target"))
    if {role: len(known) for role, known in names.items()} != {"source": len(source), "target": len(target)}:
        raise UserError(f"{folder / NAMES} names other {split} images than there are; run the dataset stage again.")
    return Split(
        source=source,
        target=target,
        instances=_open_array(folder, summary, split, "instances") if summary.has_instances else None,
        ground_truth=GroundTruth(folder / GROUND_TRUTH) if summary.has_ground_truth and split == "test" else None,
        names=tuple(names["source"]),
        target_names=tuple(names["target"]),
    )


def _open_array(
    folder: Path, summary: PackedSummary, split: SplitName, role: ImageRole, *, reference: bool = False
) -> NDArray[Any]:
    path = folder / (reference_file(role) if reference else array_file(split, role))
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # a damaged file can make the reader fail in any way
        raise UserError(f"{path} cannot be read ({error}); run the dataset stage again.") from error
    dtype, shape = array_layout(summary, "test" if reference else split, role)
    count = summary.images.get(split, {}).get("target" if role == "target" else "source")
    if array.dtype != dtype or array.shape != (count, *shape):
        raise UserError(
            f"{path} holds {array.dtype} {list(array.shape)}, but its manifest states {np.dtype(dtype)} "
            f"{[count, *shape]}; run the dataset stage again."
        )
    return array
