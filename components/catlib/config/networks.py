"""Settings of networks: generators, discriminators, their norms, and weights from outside."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from components.catlib.config.sections import Address, Count, Positive, Section, default_kind

Upsample = Literal["transposed", "resize", "subpixel"]
"""How a generator doubles the size of its features."""


class NormConfig(Section):
    """Normalisation layers of a network."""

    kind: Literal["instance", "batch", "syncbatch"] = Field(
        default="instance",
        description="statistics to normalise by; instance: of each image; batch: of the images in a process; "
        "syncbatch: of the images in all processes",
    )
    affine: bool = Field(default=True, description="learn a scale and a bias per channel; pruning needs the scales")
    track_running_stats: bool = Field(
        default=False,
        description="normalise with running statistics at evaluation; the batch norms of a trained generator must",
    )
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of the newest batch in running statistics")
    epsilon: float = Field(default=1e-5, gt=0, description="constant added to the variance")

    def undivided(self, setting: str) -> Iterator[str]:
        """Yields why a batch cannot go through a network with such norms in parts.

        Args:
            setting: Where these norms stand in a recipe, such as "generator.norm".
        """
        if self.kind != "instance":
            yield f"{setting}.kind {self.kind} normalises an image by the whole batch"
        elif self.track_running_stats:
            yield f"{setting}.track_running_stats counts batches"

    @property
    def depends_on_batch(self) -> bool:
        """Whether it normalises an image with the others of its batch even outside of training."""
        return self.kind != "instance" and not self.track_running_stats


def undivided(network: Section, setting: str) -> Iterator[str]:
    """Yields why a batch cannot go through a network in parts, as far as its settings say so.

    The layers of every network are looked at once it is built, so a family may leave this out.

    Args:
        network: Settings of a generator or discriminator.
        setting: Where they stand in a recipe.
    """
    said = getattr(network, "undivided", None)
    yield from said(setting) if said else ()


class _GeneratorBase(Section):
    """What generators of every family have in common, before pruning (paper section 3.1)."""

    base_channels: Count = Field(
        default=64,
        description="channels of the first layer (ngf); the bottleneck has 4 times (SPADE: 16 times) that number",
    )
    kernel_sizes: tuple[Count, ...] = Field(
        default=(1, 3, 5), description="odd kernel sizes of the branches, in pixels"
    )
    channels_reduction_factor: Count = Field(
        default=6, description="divisor: a branch has block channels // factor hidden channels"
    )
    norm: NormConfig = Field(default=NormConfig(), description="norms (for SPADE: those inside branches)")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout rate inside branches")
    activation: Literal["relu", "leaky_relu"] = Field(
        default="relu", description="activation function; leaky_relu has slope 0.01"
    )
    init: Literal["normal", "xavier"] = Field(default="normal", description="initialisation of fresh weights")
    init_gain: Positive = Field(
        default=0.02, description="standard deviation (normal) or gain (xavier) of fresh weights"
    )

    @field_validator("kernel_sizes")
    @classmethod
    def _check_kernel_sizes(cls, kernel_sizes: tuple[int, ...]) -> tuple[int, ...]:
        distinct = len(set(kernel_sizes)) == len(kernel_sizes)
        if not kernel_sizes or not distinct or any(k % 2 == 0 for k in kernel_sizes):
            raise ValueError("kernel_sizes must be odd and distinct numbers, at least one")
        return kernel_sizes

    def undivided(self, setting: str) -> Iterator[str]:
        """Yields why a batch cannot go through such a generator in parts; `setting` is where it stands in a recipe."""
        yield from self.norm.undivided(f"{setting}.norm")
        if self.dropout > 0:
            yield f"{setting}.dropout draws random numbers for a whole batch"


class InceptionConfig(_GeneratorBase):
    """The inception residual generator, which translates images (method section 1.1)."""

    family: Literal["inception"] = Field(default="inception", description="network family")
    num_blocks: Count = Field(default=9, description="number of inception residual blocks")
    padding: Literal["reflect", "replicate", "zero"] = Field(default="reflect", description="padding inside the blocks")
    upsample: Upsample = Field(
        default="transposed",
        description="layers that double the size; transposed: the published ones; resize: repeated pixels, then a "
        "convolution; subpixel: a convolution to 4 times the channels, which become 2x2 pixels; all cost the same MACs "
        "of a budget, the latter two more time",
    )


class InceptionSpadeConfig(_GeneratorBase):
    """The inception SPADE generator, which paints label maps (method section 1.2)."""

    family: Literal["inception_spade"] = Field(default="inception_spade", description="network family")
    num_upsampling_layers: Literal["normal", "more", "most"] = Field(
        default="more", description="factor by which the image grows; normal: 32; more: 64; most: 128"
    )
    spade_norm: Literal["batch", "syncbatch", "instance"] = Field(
        default="syncbatch", description="parameter-free norm that SPADE modulates"
    )
    spade_hidden_channels: Count = Field(
        default=128, description="hidden channels of SPADE norms, before division by channels_reduction_factor"
    )
    spectral: bool = Field(default=False, description="use spectral norm on convolutions")

    def undivided(self, setting: str) -> Iterator[str]:
        """Yields why a batch cannot go through such a generator in parts; `setting` is where it stands in a recipe."""
        yield f"the first norm of {setting}, of family inception_spade, is always batch norm"


GeneratorConfig = Annotated[
    InceptionConfig | InceptionSpadeConfig, Field(discriminator="family"), default_kind("family", "inception")
]
"""A generator of any family; inception where none is named."""

ImageGeneratorConfig = InceptionConfig
"""A generator that translates images."""

LabelGeneratorConfig = InceptionSpadeConfig
"""A generator that paints label maps."""


class _DiscriminatorBase(Section):
    """What discriminators of every family have in common (method section 2)."""

    base_channels: Count = Field(default=64, description="channels of the first layer (ndf)")
    init: Literal["normal", "xavier"] = Field(default="normal", description="initialisation of fresh weights")
    init_gain: Positive = Field(
        default=0.02, description="standard deviation (normal) or gain (xavier) of fresh weights"
    )


class PatchConfig(_DiscriminatorBase):
    """A PatchGAN, which judges overlapping patches."""

    family: Literal["patch"] = Field(default="patch", description="network family")
    num_layers: Count = Field(default=3, description="number of strided layers; with 3, each logit sees 70x70 pixels")
    norm: NormConfig = Field(default=NormConfig(), description="norm of the middle layers")

    def undivided(self, setting: str) -> Iterator[str]:
        """Yields why a batch cannot go through such a discriminator in parts."""
        yield from self.norm.undivided(f"{setting}.norm")


class PixelConfig(_DiscriminatorBase):
    """A PixelGAN, which judges every pixel on its own."""

    family: Literal["pixel"] = Field(default="pixel", description="network family")
    norm: NormConfig = Field(default=NormConfig(), description="norm of the middle layer")

    def undivided(self, setting: str) -> Iterator[str]:
        """Yields why a batch cannot go through such a discriminator in parts."""
        yield from self.norm.undivided(f"{setting}.norm")


class MultiscaleConfig(_DiscriminatorBase):
    """PatchGANs at several scales, with spectral norm and instance norm (SPADE)."""

    family: Literal["multiscale"] = Field(default="multiscale", description="network family")
    num_layers: Count = Field(
        default=3, description="number of layers of each PatchGAN before the one that makes the logits"
    )
    num_scales: Count = Field(default=2, description="number of PatchGANs")

    def undivided(self, setting: str) -> Iterator[str]:
        """Yields why a batch cannot go through such a discriminator in parts."""
        yield f"the spectral norm of {setting}, of family multiscale, changes with every pass"


DiscriminatorConfig = Annotated[
    PatchConfig | PixelConfig | MultiscaleConfig, Field(discriminator="family"), default_kind("family", "patch")
]
"""A discriminator of any family; a PatchGAN where none is named."""


ImageDiscriminatorConfig = Annotated[
    PatchConfig | PixelConfig, Field(discriminator="family"), default_kind("family", "patch")
]
"""A discriminator that returns logits alone, as families that translate images need."""


class WeightsConfig(Section):
    """Weights from outside: the address of a file, and its expected digest."""

    uri: Address = Field(description="path, s3:// or https:// address of the file")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="expected SHA-256 of the file")


STATE_DICTS = (".pth", ".pt")
"""How the names of published networks end."""


class StartConfig(WeightsConfig):
    """An earlier teacher, by its address: an artifact, whose digest is that of its manifest, or one network's file."""

    uri: Address = Field(
        description="path or s3:// address of a teacher's artifact; or of a published generator from source to target, "
        "a .pth file, also https://"
    )
    sha256: str | None = Field(
        default=None, pattern="^[0-9a-f]{64}$", description="expected SHA-256 of the file, or digest of the artifact"
    )

    @model_validator(mode="before")
    @classmethod
    def _from_address(cls, given: object) -> object:
        return {"uri": given} if isinstance(given, str) else given

    @property
    def is_artifact(self) -> bool:
        """Whether the address names an artifact rather than a file."""
        return not self.uri.endswith(STATE_DICTS)


class PublishedConfig(Section):
    """Networks published by the reference implementation (`.pth` state dicts) to start from."""

    generator: WeightsConfig | None = Field(default=None, description="generator from source to target")
    discriminator: WeightsConfig | None = Field(default=None, description="discriminator of target images")


class PublishedCycleGanConfig(PublishedConfig):
    """The same for CycleGAN, which translates both ways."""

    generator_backward: WeightsConfig | None = Field(default=None, description="generator from target to source")
    discriminator_backward: WeightsConfig | None = Field(default=None, description="discriminator of source images")
