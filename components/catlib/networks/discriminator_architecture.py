"""The architectures of discriminators, as plain data: importing this loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from components.catlib.config import (
    Count,
    DiscriminatorConfig,
    MultiscaleConfig,
    NormConfig,
    PatchConfig,
    PixelConfig,
    Section,
)
from components.catlib.errors import UserError


class _ArchitectureBase(Section):
    """The part of an architecture that discriminators of every family share."""

    in_channels: Count = Field(description="channels of the image, plus those of the condition shown with it")
    base_channels: Count = Field(description="channels of the first layer")

    @property
    def description(self) -> str:
        """Words for messages, with an article."""
        return "a discriminator"

    @property
    def smallest_size(self) -> int:
        """Least height and width in pixels of an image that it can judge."""
        return 1

    def check_size(self, height: int, width: int, *, where: str) -> None:
        """Refuses images that are too small to be judged, as `GeneratorArchitecture.check_size` does.

        Raises:
            UserError: The image is too small; the message names the smallest size.
        """
        if min(height, width) < self.smallest_size:
            raise UserError(
                f"{where} has images of {height}x{width} pixels, too small for {self.description}; set "
                f"dataset.crop_size to at least {self.smallest_size}, and dataset.load_size to no less, "
                "or lower teacher.discriminator.num_layers."
            )


class PatchArchitecture(_ArchitectureBase):
    """A PatchGAN (method section 2)."""

    family: Literal["patch"] = "patch"
    num_layers: Count = Field(description="strided layers")
    norm: NormConfig = Field(description="norm of the middle layers")

    @property
    def smallest_size(self) -> int:
        """Least height and width in pixels: the output of the strided layers must hold a patch."""
        return 3 * 2**self.num_layers

    @property
    def description(self) -> str:
        """Words for messages, with an article."""
        return f"a PatchGAN of {self.num_layers} layers"


class PixelArchitecture(_ArchitectureBase):
    """A PixelGAN (method section 2)."""

    family: Literal["pixel"] = "pixel"
    norm: NormConfig = Field(description="norm of the middle layer")


class MultiscaleArchitecture(_ArchitectureBase):
    """PatchGANs at several scales, with spectral norm and instance norm (method section 2)."""

    family: Literal["multiscale"] = "multiscale"
    num_layers: Count = Field(description="layers of each PatchGAN before the one that makes the logits")
    num_scales: Count = Field(description="number of PatchGANs")


def _without_idle_fields(described: Any) -> Any:
    """Drops fields that version 0.1.0 wrote for families that do not use them."""
    if not isinstance(described, Mapping):
        return described
    idle = {"patch": {"num_scales"}, "pixel": {"num_layers", "num_scales"}, "multiscale": {"norm"}}
    unread = idle.get(str(described.get("family")), set())
    return {name: value for name, value in described.items() if name not in unread}


DiscriminatorArchitecture = Annotated[
    PatchArchitecture | PixelArchitecture | MultiscaleArchitecture,
    Field(discriminator="family"),
    BeforeValidator(_without_idle_fields),
]
"""A discriminator of any family."""

_ARCHITECTURES = {
    PatchConfig: PatchArchitecture,
    PixelConfig: PixelArchitecture,
    MultiscaleConfig: MultiscaleArchitecture,
}


def discriminator_from_config(config: DiscriminatorConfig, *, in_channels: int) -> DiscriminatorArchitecture:
    """Returns the architecture that a recipe asks for.

    Args:
        config: The discriminator's section of the recipe.
        in_channels: Channels of the image, plus those of the condition if the discriminator sees one.
    """
    architecture = _ARCHITECTURES[type(config)]
    shaping = config.model_dump(include=set(architecture.model_fields))
    return architecture.model_validate({"in_channels": in_channels, **shaping})
