"""Settings of distillers, the losses that make a student's features like its teacher's, and how the log shows them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, TypeVar, get_args

from pydantic import BeforeValidator, Field

from components.catlib.config.losses import PerceptualConfig, VggPerceptualConfig
from components.catlib.config.sections import Count, NonNegative, Section, default_kind, spelled_out
from components.catlib.errors import UserError

Value = TypeVar("Value")


@dataclass(frozen=True)
class Figure:
    """A figure that the log shows for every feature layer, without the loss's weight, as `<name>_<layer>`.

    Attributes:
        name: Its name in the log.
        title: Heading of its charts.
        caption: What it means.
    """

    name: str
    title: str
    caption: str

    def by_layer(self, losses: Mapping[str, Value]) -> dict[str, Value]:
        """Picks this figure out of the named values of a log; returns it by layer."""
        prefix = f"{self.name}_"
        return {name.removeprefix(prefix): value for name, value in losses.items() if name.startswith(prefix)}


class _DistillerConfig(Section):
    """What all distillers have in common."""

    @property
    def compares_images(self) -> bool:
        """Whether the loss of an image depends on the others of its batch."""
        return False

    @property
    def compares_outputs(self) -> bool:
        """Whether the teacher's images are compared with the student's."""
        return False

    def check_batch(self, batch_size: int) -> None:
        """Refuses batches that are too small to learn from; raises ValueError."""

    def check_size(self, height: int, width: int) -> None:
        """Refuses images of a size in pixels that cannot be compared; raises ValueError."""

    def check_layers(self, layers: Collection[str]) -> None:
        """Refuses settings that do not fit the distillation layers of a generator; raises UserError."""


class FeatureConfig(_DistillerConfig):
    """What all losses on features have in common."""

    figure: ClassVar[Figure]

    weight: NonNegative = Field(default=1.0, description="weight of the distillation loss; 0 turns it off")
    layer_weights: tuple[NonNegative, ...] | None = Field(
        default=None, description="weight of each feature layer; null: 1 each"
    )

    def check_layers(self, layers: Collection[str]) -> None:
        """Refuses another number of layer weights than there are layers (UserError)."""
        if self.layer_weights is not None and len(self.layer_weights) != len(layers):
            raise UserError(
                f"distill.distiller.layer_weights has {len(self.layer_weights)} numbers, expected {len(layers)}, one "
                f"per feature layer: {', '.join(layers)}."
            )


class KernelAlignmentConfig(FeatureConfig):
    """The student learns to find the same images similar as its teacher does (paper section 3.3)."""

    figure: ClassVar = Figure(
        "misalignment",
        "Misalignment of features",
        "1 − KA per feature layer; it is 0 when the student finds the same images similar as the teacher.",
    )

    kind: Literal["kernel_alignment"] = Field(
        default="kernel_alignment", description="loss between student and teacher"
    )
    centred: bool = Field(default=False, description="centre the kernels (CKA) so that alignment does not saturate")

    @property
    def compares_images(self) -> bool:
        """Whether the loss of an image depends on the others of its batch."""
        return self.weight > 0

    def check_batch(self, batch_size: int) -> None:
        """Refuses batches in which every kernel is aligned; raises ValueError."""
        if batch_size < 2:
            raise ValueError("batch_size must be at least 2: the kernel alignment of a single image is always 1")
        if self.centred and batch_size < 3:
            raise ValueError("batch_size must be at least 3: centred kernels of two images are always aligned")


class MseConfig(FeatureConfig):
    """The student learns features that 1x1 convolutions, trained with it, turn into the teacher's."""

    figure: ClassVar = Figure(
        "feature_mse",
        "Distance of features",
        "Mean squared difference between the teacher's features and the student's adapted ones, per feature layer.",
    )

    kind: Literal["mse"] = Field(default="mse", description="loss between student and teacher")


class DiscriminatorCooperatedConfig(FeatureConfig):
    """The student learns features that look like its teacher's to their discriminator (DCD).

    The paper trains that discriminator from scratch together with the student: `distill.discriminator: fresh`.
    """

    figure: ClassVar = Figure(
        "judged_distance",
        "Distance of features as judged",
        "Mean absolute difference between what the discriminator makes of the teacher's and the student's features.",
    )

    kind: Literal["discriminator_cooperated"] = Field(
        default="discriminator_cooperated", description="loss between student and teacher"
    )

    @property
    def compares_images(self) -> bool:
        """Whether the loss of an image depends on the others of its batch: the connectors hold batch norms."""
        return self.weight > 0


class OmgdConfig(FeatureConfig):
    """The student learns from its teacher's images and channels alone, without a discriminator (OMGD)."""

    figure: ClassVar = Figure(
        "channel_distance",
        "Distance of channels",
        "Mean squared difference between the means of the teacher's and the student's adapted channels, per layer.",
    )

    kind: Literal["omgd"] = Field(default="omgd", description="loss between student and teacher")
    channel_weight: NonNegative = Field(default=50.0, description="weight of the distance of channels")
    ssim_weight: NonNegative = Field(default=10.0, description="weight of 1 − SSIM of the images")
    total_variation_weight: NonNegative = Field(
        default=1e-5, description="weight of the total variation of the student's images"
    )
    perceptual: PerceptualConfig = Field(
        default=VggPerceptualConfig(weight=0), description="loss between the VGG19 features of the images"
    )
    online: bool = Field(
        default=False,
        description="train the teacher on, by the section's other losses and against the discriminator, while the "
        "student learns from it; false: the teacher stays as it is and nothing has a discriminator",
    )

    @property
    def compares_outputs(self) -> bool:
        """Whether the teacher's images are compared with the student's."""
        return self.weight > 0


class OutputConfig(_DistillerConfig):
    """What the losses that compare the student's images with its teacher's have in common."""

    weight: NonNegative = Field(default=10.0, description="weight of the distillation loss; 0 turns it off")

    @property
    def compares_outputs(self) -> bool:
        """Whether the teacher's images are compared with the student's."""
        return self.weight > 0


class WaveletConfig(OutputConfig):
    """The student learns the fine detail of its teacher's images (wavelet knowledge distillation)."""

    kind: Literal["wavelet"] = Field(default="wavelet", description="loss between student and teacher")
    levels: Count = Field(default=3, description="number of times that images are halved; each gives bands of detail")

    def check_size(self, height: int, width: int) -> None:
        """Refuses images that cannot be halved that often; raises ValueError."""
        most = next(levels for levels in range(height.bit_length()) if math.gcd(height, width) % 2 ** (levels + 1))
        if self.weight > 0 and self.levels > most:
            raise ValueError(
                f"distiller.levels is {self.levels}, but images of {height}x{width} pixels cannot be halved that "
                f"often; set distiller.levels to {most} or less"
            )


class ContentRelationsConfig(OutputConfig):
    """The student learns how the strips and patches of its teacher's images relate (CRD)."""

    kind: Literal["content_relations"] = Field(
        default="content_relations", description="loss between student and teacher"
    )
    parts: Annotated[int, Field(ge=2, le=16)] = Field(
        default=8, description="strips per image in each direction; patches are where they cross"
    )


class NoDistillerConfig(_DistillerConfig):
    """The student learns from images and the discriminator alone."""

    kind: Literal["none"] = Field(default="none", description="loss between student and teacher")


DistillerConfig = Annotated[
    KernelAlignmentConfig
    | MseConfig
    | DiscriminatorCooperatedConfig
    | OmgdConfig
    | WaveletConfig
    | ContentRelationsConfig
    | NoDistillerConfig,
    Field(discriminator="kind"),
    default_kind("kind", "kernel_alignment"),
    BeforeValidator(spelled_out),
]
"""A distiller of any kind; kernel alignment where none is named."""

FIGURES: tuple[Figure, ...] = tuple(
    model.figure for model in get_args(get_args(DistillerConfig)[0]) if issubclass(model, FeatureConfig)
)
"""What the log shows of each distiller that compares features."""
