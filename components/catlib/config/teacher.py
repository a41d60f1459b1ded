"""Settings of teacher training, one model per family (method section 4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

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
    NormConfig,
    PatchConfig,
    PublishedConfig,
    PublishedCycleGanConfig,
    StartConfig,
    undivided,
)
from components.catlib.config.sections import default_kind
from components.catlib.config.training import TrainingConfig

_PUBLISHED = "published networks to start from; with epochs and decay_epochs 0 they are used unchanged"


class _Teaching(TrainingConfig):
    """What the trainings of teachers of all families have in common."""

    start_from: StartConfig | None = Field(
        default=None,
        description="earlier teacher of the same family and architecture whose generators and discriminators this one "
        "starts with, to fine-tune it",
    )

    def undivided(self) -> Iterator[str]:
        """Yields why parts of a batch would not give the gradients of the whole."""
        yield from super().undivided()
        for name in ("generator", "discriminator"):
            yield from undivided(getattr(self, name), name)

    @model_validator(mode="after")
    def _check_start(self) -> _Teaching:
        if self.start_from is not None and getattr(self, "published", None) is not None:
            raise ValueError("start_from and published both name the networks to start with; leave out one of the two")
        return self

    @model_validator(mode="after")
    def _check_norm(self) -> _Teaching:
        published = getattr(self, "published", None)  # a published file decides about its own norms
        files = [value for name, value in published or () if name.startswith("generator")]
        norm: NormConfig = self.generator.norm  # pyright: ignore[reportAttributeAccessIssue]  # of every family
        if self.trains and norm.depends_on_batch and (not files or None in files):
            raise ValueError(
                f"generator.norm.kind is {norm.kind} without running statistics, so that every image would depend on "
                "what else is in its batch, even after training; set teacher.generator.norm.track_running_stats: true"
            )
        return self


class Pix2PixConfig(_Teaching):
    """A teacher that learns from paired images."""

    moved: ClassVar = TrainingConfig.moved | {
        "lambda_recon": "reconstruction.weight",
        "vgg_weights": "reconstruction.weights",
    }

    family: Literal["pix2pix"] = Field(default="pix2pix", description="paired images")
    generator: ImageGeneratorConfig = Field(default=InceptionConfig(), description="the large generator")
    discriminator: ImageDiscriminatorConfig = Field(
        default=PatchConfig(), description="the discriminator that it trains against"
    )
    reconstruction: ReconstructionConfig = Field(
        default=PixelLossConfig(), description="loss between generated images and their targets"
    )
    published: PublishedConfig | None = Field(default=None, description=_PUBLISHED)


class CycleGanConfig(_Teaching):
    """A teacher that learns from unpaired images and translates in both directions."""

    moved: ClassVar = TrainingConfig.moved | {"lambda_cycle": "cycle.weight", "lambda_identity": "identity.weight"}

    family: Literal["cyclegan"] = Field(default="cyclegan", description="unpaired images")
    generator: ImageGeneratorConfig = Field(
        default=InceptionConfig(), description="the large generators, one per direction"
    )
    discriminator: ImageDiscriminatorConfig = Field(
        default=PatchConfig(), description="the discriminators, one per direction"
    )
    cycle: CycleConfig = Field(
        default=CycleConfig(), description="loss between an image and its translation there and back"
    )
    identity: IdentityConfig = Field(
        default=IdentityConfig(), description="loss that keeps images of a generator's output domain unchanged"
    )
    image_pool_size: Annotated[int, Field(ge=0)] = Field(
        default=50, description="number of earlier generated images kept for the discriminators; 0: none"
    )
    published: PublishedCycleGanConfig | None = Field(default=None, description=_PUBLISHED)


class SpadeConfig(_Teaching):
    """A teacher that turns label maps into images (GauGAN)."""

    moved: ClassVar = TrainingConfig.moved | {
        "lambda_feature": "feature_matching.weight",
        "lambda_vgg": "perceptual.weight",
        "vgg_weights": "perceptual.weights",
    }

    family: Literal["spade"] = Field(default="spade", description="label maps")
    generator: LabelGeneratorConfig = Field(default=InceptionSpadeConfig(), description="the large generator")
    discriminator: MultiscaleConfig = Field(
        default=MultiscaleConfig(), description="the discriminator that it trains against"
    )
    feature_matching: FeatureMatchingConfig = Field(
        default=FeatureMatchingConfig(),
        description="loss between the discriminator's features of generated and real images",
    )
    perceptual: PerceptualConfig = Field(
        default=VggPerceptualConfig(), description="loss between the VGG19 features of generated and real images"
    )
    published: PublishedConfig | None = Field(default=None, description=_PUBLISHED)


TeacherConfig = Annotated[
    Pix2PixConfig | CycleGanConfig | SpadeConfig, Field(discriminator="family"), default_kind("family", "pix2pix")
]
"""A teacher of any family; pix2pix where none is named."""
