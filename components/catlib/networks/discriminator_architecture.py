"""What a discriminator is built from, as plain data: importing this loads no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from components.catlib.config import Count, DiscriminatorConfig, NormConfig, Section


class DiscriminatorArchitecture(Section):
    """A discriminator (method section 2): the settings of its recipe that shape it, and its input."""

    family: Literal["patch", "pixel", "multiscale"] = Field(description="PatchGAN, PixelGAN or multi-scale")
    in_channels: Count = Field(description="channels of the image, plus those of the condition it is shown with")
    base_channels: Count = Field(description="channels of the first layer")
    num_layers: Count = Field(description="strided layers of a PatchGAN; unused by a PixelGAN")
    num_scales: Count = Field(description="PatchGANs of a multi-scale discriminator; unused by the others")
    norm: NormConfig = Field(description="norm of the middle layers; unused by a multi-scale discriminator")

    @classmethod
    def from_config(cls, config: DiscriminatorConfig, *, in_channels: int) -> DiscriminatorArchitecture:
        """Makes the architecture that a recipe asks for.

        Args:
            config: The discriminator's section of the recipe.
            in_channels: Channels of the image plus those of the condition, when it is shown one.
        """
        shaping = config.model_dump(include=set(cls.model_fields))
        return cls(in_channels=in_channels, **shaping)
