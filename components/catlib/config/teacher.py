"""Settings of teacher training, one model per family (method section 4)."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from components.catlib.config.losses import (
    CycleConfig,
    FeatureMatchingConfig,
    IdentityConfig,
    PerceptualConfig,
    PixelLossConfig,
    ReconstructionConfig,
    VggPerceptualConfig,
)
from components.catlib.config.networks import (
    ImageDiscriminatorConfig,
    ImageGeneratorConfig,
    InceptionConfig,
    InceptionSpadeConfig,
    LabelGeneratorConfig,
    MultiscaleConfig,
    PatchConfig,
    PublishedConfig,
    PublishedCycleGanConfig,
)
from components.catlib.config.sections import default_kind
from components.catlib.config.training import TrainingConfig

_PUBLISHED = "start from published networks (epochs 0: use as is)"


class Pix2PixConfig(TrainingConfig):
    """A teacher of paired images."""

    moved: ClassVar = TrainingConfig.moved | {
        "lambda_recon": "reconstruction.weight",
        "vgg_weights": "reconstruction.weights",
    }

    family: Literal["pix2pix"] = Field(default="pix2pix", description="paired images")
    generator: ImageGeneratorConfig = Field(default=InceptionConfig(), description="the large generator")
    discriminator: ImageDiscriminatorConfig = Field(default=PatchConfig(), description="its opponent")
    reconstruction: ReconstructionConfig = Field(
        default=PixelLossConfig(), description="how far images are from their targets"
    )
    published: PublishedConfig | None = Field(default=None, description=_PUBLISHED)


class CycleGanConfig(TrainingConfig):
    """A teacher of unpaired images, both ways."""

    moved: ClassVar = TrainingConfig.moved | {"lambda_cycle": "cycle.weight", "lambda_identity": "identity.weight"}

    family: Literal["cyclegan"] = Field(default="cyclegan", description="unpaired images")
    generator: ImageGeneratorConfig = Field(default=InceptionConfig(), description="the large generator, one each way")
    discriminator: ImageDiscriminatorConfig = Field(default=PatchConfig(), description="its opponent, one each way")
    cycle: CycleConfig = Field(default=CycleConfig(), description="there and back again gives the image")
    identity: IdentityConfig = Field(default=IdentityConfig(), description="images of the wanted domain stay")
    image_pool_size: Annotated[int, Field(ge=0)] = Field(default=50, description="past fakes shown to discriminators")
    published: PublishedCycleGanConfig | None = Field(default=None, description=_PUBLISHED)


class SpadeConfig(TrainingConfig):
    """A teacher of label maps (GauGAN)."""

    moved: ClassVar = TrainingConfig.moved | {
        "lambda_feature": "feature_matching.weight",
        "lambda_vgg": "perceptual.weight",
        "vgg_weights": "perceptual.weights",
    }

    family: Literal["spade"] = Field(default="spade", description="label maps")
    generator: LabelGeneratorConfig = Field(default=InceptionSpadeConfig(), description="the large generator")
    discriminator: MultiscaleConfig = Field(default=MultiscaleConfig(), description="its opponent")
    feature_matching: FeatureMatchingConfig = Field(
        default=FeatureMatchingConfig(), description="the discriminator sees the same in generated and real images"
    )
    perceptual: PerceptualConfig = Field(
        default=VggPerceptualConfig(), description="a VGG19 sees the same in generated and real images"
    )
    published: PublishedConfig | None = Field(default=None, description=_PUBLISHED)


TeacherConfig = Annotated[
    Pix2PixConfig | CycleGanConfig | SpadeConfig, Field(discriminator="family"), default_kind("family", "pix2pix")
]
"""A teacher of any family; pix2pix where none is named."""
