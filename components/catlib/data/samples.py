"""What sources of images hand to packing: samples that decode themselves on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from PIL.Image import Image

from components.catlib.data.packed import LeftOut, Pairing, Role

Domain = Literal["A", "B"]
Direction = Literal["AtoB", "BtoA"]


class UnusableImageError(Exception):
    """An image file that cannot be decoded or does not fit its partner; packing collects these."""

    def __init__(self, file: str, reason: str) -> None:
        """Keeps the file's path and the reason."""
        super().__init__(f"{file}: {reason}")
        self.file = file
        self.reason = reason


@dataclass(frozen=True)
class Sample:
    """Images that belong together, not decoded yet.

    Attributes:
        name: Unique among the samples of its list.
        load: Decodes the images at their original size: pictures in mode RGB, label maps and true classes in mode L,
            instance ids in mode I. Raises [UnusableImageError][].
    """

    name: str
    load: Callable[[], Mapping[Role, Image]]


@dataclass(frozen=True)
class SampleList:
    """Samples that all have the same roles: a paired split is one list with two roles, an unpaired one two lists."""

    roles: tuple[Role, ...]
    samples: Sequence[Sample]


@dataclass(frozen=True)
class Collection:
    """All images of a source.

    Attributes:
        pairing: How training images belong together.
        train: Training images.
        test: Held-out images.
        provenance: JSON facts for the manifest: where the images came from, how they were split, their licence.
        num_labels: Number of classes when the source images are label maps.
        has_instances: Whether samples have instance ids.
        without_partner: Files of paired data that have none, and why.
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
        """Whether every held-out source image comes with its true target."""
        return any({"source", "target"} <= set(samples.roles) for samples in self.test)


def role_of(domain: Domain, direction: Direction) -> Role:
    """Returns which part a domain plays: A is the source of AtoB."""
    return "source" if domain == direction[0] else "target"
