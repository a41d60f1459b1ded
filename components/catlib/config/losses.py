"""Settings of losses. A loss that the log of a training shows has a section of the same name, with its weight.

A bare number means a loss of that weight, so `perceptual: 0` turns one off. A bare word means a kind.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from components.catlib.config.networks import WeightsConfig
from components.catlib.config.sections import NonNegative, Section, default_kind, spelled_out


class GanConfig(Section):
    """An adversarial objective on the logits of the discriminator (method section 3)."""

    kind: Literal["lsgan", "vanilla", "hinge"] = Field(default="lsgan", description="adversarial objective")
    weight: NonNegative = Field(default=1.0, description="weight of the generator's adversarial loss")


class WganGpConfig(Section):
    """The Wasserstein objective, with a penalty on the slope of the discriminator."""

    kind: Literal["wgangp"] = Field(default="wgangp", description="adversarial objective")
    weight: NonNegative = Field(default=1.0, description="weight of the generator's adversarial loss")
    gradient_penalty: NonNegative = Field(default=10.0, description="weight of the gradient penalty")


AdversarialConfig = Annotated[
    GanConfig | WganGpConfig,
    Field(discriminator="kind"),
    default_kind("kind", "lsgan"),
    BeforeValidator(spelled_out),
]
"""An adversarial objective of any kind; lsgan where none is named."""


class PixelLossConfig(Section):
    """How far generated images are from wanted ones, pixel by pixel."""

    kind: Literal["l1", "l2", "smooth_l1"] = Field(default="l1", description="reconstruction loss")
    weight: NonNegative = Field(default=100.0, description="weight of the reconstruction loss")


class VggLossConfig(Section):
    """How differently a VGG19 sees generated and wanted images; it replaces a loss on pixels."""

    kind: Literal["vgg"] = Field(default="vgg", description="reconstruction loss")
    weight: NonNegative = Field(default=100.0, description="weight of the reconstruction loss")
    weights: WeightsConfig = Field(description="VGG19 weights, torchvision's state dict vgg19-dcbb9e9d.pth")


ReconstructionConfig = Annotated[
    PixelLossConfig | VggLossConfig,
    Field(discriminator="kind"),
    default_kind("kind", "l1"),
    BeforeValidator(spelled_out),
]
"""A reconstruction loss of any kind; l1 where none is named."""


class _OneKind(Section):
    """A loss that comes in one kind."""

    @model_validator(mode="before")
    @classmethod
    def _spell_out(cls, settings: Any) -> Any:
        return spelled_out(settings)


class CycleConfig(_OneKind):
    """How far CycleGAN's images are from the originals after translation there and back."""

    weight: NonNegative = Field(default=10.0, description="weight of the cycle loss, in each direction")


class IdentityConfig(_OneKind):
    """How much CycleGAN's generators change images that already belong to their output domain."""

    weight: NonNegative = Field(default=0.5, description="weight of the identity loss, as a share of cycle.weight")


class FeatureMatchingConfig(_OneKind):
    """How differently SPADE's discriminator sees generated and real images."""

    weight: NonNegative = Field(
        default=10.0, description="weight of the loss between the discriminator's features of generated and real images"
    )


class VggPerceptualConfig(_OneKind):
    """How differently a VGG19 sees SPADE's images and real ones."""

    weight: NonNegative = Field(default=10.0, description="weight of the VGG19 perceptual loss")
    weights: WeightsConfig | None = Field(
        default=None, description="VGG19 weights, torchvision's state dict vgg19-dcbb9e9d.pth; not needed with weight 0"
    )


def _with_weights(loss: VggPerceptualConfig) -> VggPerceptualConfig:
    if loss.weight > 0 and loss.weights is None:
        raise ValueError(
            "the VGG19 loss needs weights.uri (torchvision's vgg19-dcbb9e9d.pth); give it, or set perceptual: 0"
        )
    return loss


PerceptualConfig = Annotated[VggPerceptualConfig, AfterValidator(_with_weights)]
"""The perceptual loss. Its default lacks the weights of VGG19: a recipe gives them or turns the loss off."""
