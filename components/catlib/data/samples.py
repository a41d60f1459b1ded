"""Samples, which decode themselves on demand: the form in which sources hand images to packing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from numpy.typing import NDArray
from PIL import Image

from components.catlib.errors import one_line

if TYPE_CHECKING:  # commands that only decode pictures start without the models of settings
    from components.catlib.config.dataset import DatasetDirection, PictureRole
    from components.catlib.data.packed import ImageRole, LeftOut, Pairing

DomainLetter = Literal["A", "B"]

DONT_CARE = 255
"""Label of pixels that belong to no class."""


@dataclass(frozen=True)
class Raster:
    """The numbers of a science image, with the sizes and parts of an image of Pillow.

    Attributes:
        numbers: [H, W, C], any type.
    """

    numbers: NDArray[Any]

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.numbers.shape[1]

    @property
    def height(self) -> int:
        """Number of rows."""
        return self.numbers.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.width, self.height

    def crop(self, box: tuple[int, int, int, int]) -> Raster:
        """Returns the part within a box: left, upper, right and lower edge."""
        left, upper, right, lower = box
        return Raster(self.numbers[upper:lower, left:right])


DecodedImage: TypeAlias = Image.Image | Raster


class UnusableImageError(Exception):
    """An image file cannot be decoded or does not fit its partner. Packing collects these errors."""

    def __init__(self, file: str, reason: str, advice: str = "") -> None:
        """Stores the file's path, the reason, and what to do, if that is not to repair or remove the file."""
        super().__init__(one_line(f"{file}: {reason}"))
        self.file = file
        self.reason = reason
        self.advice = advice


@dataclass(frozen=True)
class Sample:
    """Images that belong together, not decoded yet.

    Attributes:
        name: The sample's name, unique in its list.
        load: Decodes the images at their original size: pictures in mode RGB, science images as rasters, label maps
            and true classes in mode L, instance ids in mode I. Raises `UnusableImageError`.
    """

    name: str
    load: Callable[[], Mapping[ImageRole, DecodedImage]]


@dataclass(frozen=True)
class SampleList:
    """Samples that all have the same roles.

    A paired split is one list with two roles or more; an unpaired split is two lists with one role each.
    """

    roles: tuple[ImageRole, ...]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Collection:
    """All images of a source.

    Attributes:
        pairing: Whether training images are paired, unpaired, or label maps with their images.
        train: Training images.
        test: Held-out images.
        provenance: JSON facts for the manifest: origin of the images, how they were split, and their licence.
        num_labels: Number of classes when the source images are label maps, else None.
        has_instances: Whether samples have instance ids.
        without_partner: Files of paired data that lack a partner, each with the reason.
    """

    pairing: Pairing
    train: tuple[SampleList, ...]
    test: tuple[SampleList, ...]
    provenance: dict[str, Any] = field(default_factory=dict)
    num_labels: int | None = None
    has_instances: bool = False
    without_partner: tuple[LeftOut, ...] = ()

    @property
    def test_is_paired(self) -> bool:
        """Whether held-out source images come with their true targets."""
        return any({"source", "target"} <= set(samples.roles) for samples in self.test)


def role_of(domain: DomainLetter, direction: DatasetDirection) -> PictureRole:
    """Returns the role of a domain, for example "source" for domain A in the direction AtoB."""
    return "source" if domain == direction[0] else "target"
