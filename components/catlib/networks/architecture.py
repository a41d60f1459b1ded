"""The questions that every generator's architecture answers, so that no other code asks for its family.

`components/catlib/networks/families.py` lists the families. An architecture is numbers alone, so importing it loads no
torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal, Protocol

import numpy as np

from components.catlib.config import NormConfig
from components.catlib.networks.layers import ImageSize, Layer, PrunableNorm

InputKind = Literal["images", "labels"]
"""What a generator reads: images in [-1, 1], or semantic planes of zeros and ones."""

INPUT_DESCRIPTIONS: dict[InputKind, str] = {
    "images": "RGB, float32, NCHW, -1 to 1",
    "labels": "semantic planes, float32, NCHW, 0 or 1",
}


class GeneratorArchitecture(Protocol):
    """A generator, teacher or student, as numbers.

    Attributes:
        input_kind: Whether it reads images or semantic planes.
    """

    input_kind: ClassVar[InputKind]

    @property
    def family(self) -> str:
        """Name of the family."""
        ...

    @property
    def in_channels(self) -> int:
        """Channels of the input."""
        ...

    @property
    def out_channels(self) -> int:
        """Channels of the generated image."""
        ...

    @property
    def norm(self) -> NormConfig:
        """Settings of the norms whose scales decide what is pruned."""
        ...

    @property
    def size_step(self) -> int:
        """Height and width must be multiples of this many pixels."""
        ...

    @property
    def smallest_size(self) -> int:
        """Least height and width of its images in pixels."""
        ...

    @property
    def fixed_size(self) -> ImageSize | None:
        """Height and width of its images in pixels; None if it takes any multiple of `size_step`."""
        ...

    @property
    def feature_widths(self) -> dict[str, int]:
        """Number of channels of every distillation layer, by module path, in the order of the network."""
        ...

    def check_size(self, height: int, width: int, *, where: str) -> None:
        """Refuses images of a size that it cannot read or make.

        Args:
            height: Height of an image in pixels.
            width: Width of an image in pixels.
            where: What has this size; it begins the message, for example "Dataset data/maps".

        Raises:
            UserError: The size does not fit; the message names the sizes that do.
        """
        ...

    def example_input(self, count: int, size: ImageSize, *, seed: int = 0) -> np.ndarray:
        """Returns invented inputs, float32 [count, in_channels, height, width]; equal seeds give equal inputs."""
        ...

    def layers(self, height: int, width: int) -> list[Layer]:
        """Returns every layer that exists and runs, in the order of the network, for images of this size in pixels."""
        ...

    def prunable_norms(self) -> list[PrunableNorm]:
        """Returns the norms whose scales are compared with the threshold, with bounds on their channels, in order."""
        ...

    def resized(self, widths: Mapping[str, int]) -> GeneratorArchitecture:
        """Returns this architecture with new channel counts, by the name of every prunable norm; 0 removes a branch."""
        ...

    @classmethod
    def from_config(
        cls, config: Any, *, in_channels: int, out_channels: int, crop_size: ImageSize
    ) -> GeneratorArchitecture:
        """Returns the architecture of an unpruned generator; raises UserError where the images do not fit it."""
        ...


def example_images(count: int, channels: int, size: ImageSize, *, seed: int) -> np.ndarray:
    """Returns uniform noise, float32 [count, channels, height, width] in [-1, 1)."""
    noise = np.random.default_rng(seed).random((count, channels, *size), dtype=np.float32)
    return 2 * noise - 1


def example_labels(count: int, channels: int, size: ImageSize, *, seed: int) -> np.ndarray:
    """Returns semantic planes of random labels: one-hot, float32 [count, channels, height, width] of 0 and 1."""
    labels_NHW = np.random.default_rng(seed).integers(channels, size=(count, *size))
    planes_C = np.arange(channels)[:, None, None]
    return (labels_NHW[:, None] == planes_C).astype(np.float32)
