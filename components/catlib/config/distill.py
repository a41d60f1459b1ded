"""Settings of distillation, one model per family of teachers (method sections 3 and 6)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from components.catlib.config.distillers import DistillerConfig, KernelAlignmentConfig, OmgdConfig
from components.catlib.config.losses import (
    FeatureMatchingConfig,
    PerceptualConfig,
    PixelLossConfig,
    ReconstructionConfig,
    VggPerceptualConfig,
)
from components.catlib.config.networks import PublishedConfig, PublishedCycleGanConfig
from components.catlib.config.sections import Count, Positive, default_kind
from components.catlib.config.training import TrainingConfig

_FAMILY = "family of the teacher; a recipe takes teacher.family by default"
_PUBLISHED = "published networks of a student to start from; with epochs and decay_epochs 0 they are used unchanged"


class _Distillation(TrainingConfig):
    """What the distillations of all families have in common."""

    moved: ClassVar[dict[str, str]] = TrainingConfig.moved | {
        "distillation": "distiller.kind",
        "lambda_distill": "distiller.weight",
        "centred_kernels": "distiller.centred",
        "layer_weights": "distiller.layer_weights",
    }

    batch_size: Count = Field(default=80, description="images per optimisation step; kernel alignment needs at least 2")
    distiller: DistillerConfig = Field(
        default=KernelAlignmentConfig(), description="loss between the student's and the teacher's features"
    )
    discriminator: Literal["teacher", "fresh"] = Field(
        default="teacher",
        description="weights that the discriminator starts from; teacher: the teacher's discriminator; fresh: new ones",
    )
    init_gain: Positive = Field(
        default=0.02, description="standard deviation (normal) or gain (xavier) of fresh weights"
    )

    def undivided(self) -> Iterator[str]:
        """Yields why parts of a batch would not give the gradients of the whole; the networks are the teacher's."""
        yield from super().undivided()
        if self.distiller.compares_images:
            yield f"distiller: {self.distiller.kind} compares the images of a whole batch"

    @model_validator(mode="after")
    def _check_batch(self) -> _Distillation:
        self.distiller.check_batch(self.batch_size)
        return self

    @model_validator(mode="after")
    def _check_regime(self) -> _Distillation:
        """Refuses losses that `omgd` would not use; subclasses know what its teacher needs to learn on."""
        if not isinstance(self.distiller, OmgdConfig):
            return self
        if self.distiller.weight == 0:
            raise ValueError("distiller.weight is 0, but omgd is all that its student learns from; give it a weight")
        if not self.distiller.online:
            names = ("adversarial", "reconstruction", "feature_matching", "perceptual")
            unused = [name for name in names if getattr(getattr(self, name, None), "weight", 0) > 0]
            if unused:
                raise ValueError(
                    "distiller: omgd trains a student by its teacher alone, so these losses would not count; set "
                    + ", ".join(f"{name}: 0" for name in unused)
                    + ", or distiller.online: true to train the teacher on with them"
                )
        return self


class Pix2PixDistillConfig(_Distillation):
    """A student that translates images and learns from their targets."""

    moved: ClassVar = _Distillation.moved | {
        "lambda_recon": "reconstruction.weight",
        "vgg_weights": "reconstruction.weights",
    }

    family: Literal["pix2pix"] = Field(default="pix2pix", description=_FAMILY)
    reconstruction: ReconstructionConfig = Field(
        default=PixelLossConfig(), description="loss between the student's images and their targets"
    )
    init: Literal["normal", "xavier"] = Field(default="normal", description="initialisation of fresh weights")
    published: PublishedConfig | None = Field(default=None, description=_PUBLISHED)


class CycleGanDistillConfig(_Distillation):
    """A student that translates images in one direction and learns from its teacher's translations."""

    moved: ClassVar = Pix2PixDistillConfig.moved

    family: Literal["cyclegan"] = Field(default="cyclegan", description=_FAMILY)
    reconstruction: ReconstructionConfig = Field(
        default=PixelLossConfig(), description="loss between the student's images and the teacher's"
    )
    init: Literal["normal", "xavier"] = Field(default="normal", description="initialisation of fresh weights")
    published: PublishedCycleGanConfig | None = Field(default=None, description=_PUBLISHED)

    @model_validator(mode="after")
    def _check_online(self) -> CycleGanDistillConfig:
        if isinstance(self.distiller, OmgdConfig) and self.distiller.online:
            raise ValueError(
                "distiller.online: true cannot train a CycleGAN teacher on, because its cycle loss needs the generator "
                "of the other direction, which a distillation does not have; set distiller.online: false"
            )
        return self


class SpadeDistillConfig(_Distillation):
    """A student that turns label maps into images."""

    moved: ClassVar = _Distillation.moved | {
        "lambda_feature": "feature_matching.weight",
        "lambda_vgg": "perceptual.weight",
        "vgg_weights": "perceptual.weights",
    }

    family: Literal["spade"] = Field(default="spade", description=_FAMILY)
    feature_matching: FeatureMatchingConfig = Field(
        default=FeatureMatchingConfig(),
        description="loss between the discriminator's features of generated and real images",
    )
    perceptual: PerceptualConfig = Field(
        default=VggPerceptualConfig(), description="loss between the VGG19 features of generated and real images"
    )
    init: Literal["normal", "xavier"] = Field(default="xavier", description="initialisation of fresh weights")
    published: PublishedConfig | None = Field(default=None, description=_PUBLISHED)

    def undivided(self) -> Iterator[str]:
        """Yields why parts of a batch would not give the gradients of the whole."""
        yield "the first norm of a SPADE generator is always batch norm"
        yield from super().undivided()


DistillConfig = Annotated[
    Pix2PixDistillConfig | CycleGanDistillConfig | SpadeDistillConfig,
    Field(discriminator="family"),
    default_kind("family", "pix2pix"),
]
"""Distillation from a teacher of any family; pix2pix where none is named."""
