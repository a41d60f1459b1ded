"""Settings of trainings: of teachers of every family, and of distillation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from components.catlib.config.measuring import SegmenterConfig
from components.catlib.config.networks import (
    DiscriminatorConfig,
    GeneratorConfig,
    InceptionConfig,
    PatchConfig,
    PublishedConfig,
    WeightsConfig,
)
from components.catlib.config.sections import Count, NonNegative, Positive, Section, refuse_idle
from components.catlib.errors import UserError


class TrainingConfig(Section):
    """What teacher training and distillation have in common: data order, optimiser, schedule, reporting."""

    epochs: Annotated[int, Field(ge=0)] = Field(default=500, description="epochs at the full learning rate")
    decay_epochs: Annotated[int, Field(ge=0)] = Field(
        default=500, description="epochs over which the rate falls to zero"
    )
    batch_size: Count = Field(default=32, description="images per optimisation step")
    learning_rate: Positive = Field(default=2e-4, description="Adam learning rate")
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.5, 0.999), description="Adam betas"
    )
    two_time_scales: bool = Field(default=False, description="TTUR: generator rate halved, discriminator rate doubled")
    schedule: Literal["linear", "step", "plateau", "cosine"] = Field(
        default="linear", description="learning-rate schedule"
    )
    step_epochs: Count = Field(default=50, description="step schedule: epochs between drops to a tenth")
    plateau_patience: Annotated[int, Field(ge=0)] = Field(
        default=5,
        description="plateau schedule: evaluations in a row that may bring no improvement before the rate falls",
    )
    flip: bool = Field(default=True, description="mirror training images left-right at random")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="seed of weights, data order and augmentation")
    evaluations: Annotated[int, Field(ge=0)] = Field(
        default=4, description="how often the held-out images are scored during training, evenly spread"
    )
    evaluation_images: Count = Field(
        default=256, description="at most this many held-out images (the first ones) are scored"
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="which weights are the result: those with the best score (method section 4) or the last",
    )
    segmenter: SegmenterConfig | None = Field(
        default=None,
        description="Cityscapes only: the best score is the highest mIoU by this network, not the lowest Fréchet "
        "distance; in a recipe the default is evaluate.segmenter",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="training ends after this many evaluations in a row without a better score; 0: never early",
    )
    time_limit_seconds: Positive | None = Field(
        default=None,
        description="training ends with the result so far once it has taken this long, resumed processes together",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="evaluate and keep an exponential moving average of each generator's weights; the share of the "
        "average that stays in every step, such as 0.999; 0: no average",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="what networks compute in; weights, losses and statistics are float32 always; fp16 needs a GPU",
    )
    tf32: bool = Field(default=False, description="let GPUs round the inputs of float32 products to 10 bits, for speed")
    channels_last: bool = Field(default=False, description="keep images as NHWC in memory, which suits tensor cores")
    compile: bool = Field(
        default=False, description="compile the trained networks (torch.compile); the first steps take long"
    )
    log_seconds: Positive = Field(default=10.0, description="seconds between progress lines")
    checkpoint_seconds: Positive = Field(
        default=600.0, description="seconds between checkpoints, besides those at evaluations and at the end"
    )
    keep_checkpoints: Annotated[int, Field(ge=2)] = Field(
        default=2, description="how many of the newest checkpoints are kept, besides the best one"
    )
    gan_objective: Literal["lsgan", "vanilla", "hinge", "wgangp"] = Field(
        default="lsgan", description="adversarial objective"
    )
    lambda_gan: NonNegative = Field(default=1.0, description="weight of the adversarial loss")
    reconstruction: Literal["l1", "l2", "smooth_l1", "vgg"] = Field(default="l1", description="reconstruction loss")
    lambda_recon: NonNegative = Field(
        default=100.0, description="weight of the reconstruction loss (not CycleGAN, not SPADE)"
    )
    lambda_gradient_penalty: NonNegative = Field(default=10.0, description="wgangp: weight of the gradient penalty")
    lambda_feature: NonNegative = Field(default=10.0, description="SPADE: weight of discriminator feature matching")
    lambda_vgg: NonNegative = Field(default=10.0, description="SPADE: weight of the VGG19 perceptual loss")
    vgg_weights: WeightsConfig | None = Field(default=None, description="VGG19 weights (torchvision's state dict)")

    @model_validator(mode="after")
    def _check_compile(self) -> TrainingConfig:
        if self.compile and self.gan_objective == "wgangp":
            raise ValueError(
                "compile: true cannot train with gan_objective: wgangp, whose gradient penalty differentiates twice, "
                "which compiled networks do not allow; set compile: false"
            )
        return self

    @model_validator(mode="after")
    def _check_plateau(self) -> TrainingConfig:
        if self.schedule == "plateau" and self.evaluations < self.plateau_patience + 3:
            raise ValueError(
                f"schedule: plateau looks at the scores and needs evaluations of at least plateau_patience + 3 = "
                f"{self.plateau_patience + 3}, else it never lowers the learning rate"
            )
        return self

    @model_validator(mode="after")
    def _check_patience(self) -> TrainingConfig:
        if self.patience and self.evaluations < self.patience + 2:
            raise ValueError(
                f"patience: {self.patience} looks at the scores and needs evaluations of at least patience + 2 = "
                f"{self.patience + 2}, else it never ends the training early"
            )
        return self


class TeacherConfig(TrainingConfig):
    """Teacher training (method section 4)."""

    family: Literal["pix2pix", "cyclegan", "spade"] = Field(
        default="pix2pix", description="paired, unpaired or label maps"
    )
    generator: GeneratorConfig = Field(default=InceptionConfig(), description="the large generator")
    discriminator: DiscriminatorConfig = Field(default=PatchConfig(), description="its opponent")
    lambda_cycle: NonNegative = Field(default=10.0, description="CycleGAN: weight of the cycle loss, each way")
    lambda_identity: NonNegative = Field(default=0.5, description="CycleGAN: identity loss as a share of lambda_cycle")
    image_pool_size: Annotated[int, Field(ge=0)] = Field(
        default=50, description="CycleGAN: past fakes shown to discriminators"
    )
    published: PublishedConfig | None = Field(
        default=None, description="start from published networks (epochs 0: use as is)"
    )

    @model_validator(mode="after")
    def _check(self) -> TeacherConfig:
        spade = self.family == "spade"
        if spade != (self.generator.family == "inception_spade"):
            raise ValueError("family spade and generator.family inception_spade belong together")
        if spade != (self.discriminator.family == "multiscale"):
            raise ValueError("family spade and discriminator.family multiscale belong together")
        refuse_idle(self, IDLE_LOSSES[self.family], reason=f"in a teacher of family {self.family}")
        if self.family != "cyclegan":
            cyclegan = ("lambda_cycle", "lambda_identity", "image_pool_size")
            refuse_idle(self, cyclegan, reason=f"in a teacher of family {self.family}, only in cyclegan")
            if self.published is not None:
                backward = ("generator_backward", "discriminator_backward")
                refuse_idle(self.published, backward, reason=f"in a teacher of family {self.family}, only in cyclegan")
        check_vgg(self, uses_perceptual=spade)
        _check_epochs(self, self.published)
        return self


IDLE_LOSSES = {
    "pix2pix": ("lambda_feature", "lambda_vgg"),
    "cyclegan": ("lambda_recon", "reconstruction", "lambda_feature", "lambda_vgg"),
    "spade": ("lambda_recon", "reconstruction"),
}
"""Losses that each family of teachers does without."""


def check_losses(section: TrainingConfig, *, label_maps: bool) -> None:
    """Refuses losses that a distillation does without.

    Args:
        section: The distill section.
        label_maps: Whether the teacher is a SPADE generator.

    Raises:
        UserError: Names the first one that is asked for.
    """
    kind = "a SPADE" if label_maps else "an inception"
    try:
        refuse_idle(section, IDLE_LOSSES["spade" if label_maps else "pix2pix"], reason=f"with {kind} teacher")
    except ValueError as error:
        raise UserError(f"distill.{error}.") from error


def _check_epochs(section: TrainingConfig, published: PublishedConfig | None) -> None:
    generators = (published.generator, published.generator_backward) if published is not None else ()
    if section.epochs + section.decay_epochs == 0 and not any(generators):
        raise ValueError(
            "epochs and decay_epochs are both 0, which leaves nothing but published weights; "
            "give published.generator.uri or train for at least one epoch"
        )


def check_vgg(section: TrainingConfig, *, uses_perceptual: bool) -> None:
    """Refuses a VGG19 loss without weights of VGG19; raises ValueError."""
    wanted = section.reconstruction == "vgg" or (uses_perceptual and section.lambda_vgg > 0)
    if wanted and section.vgg_weights is None:
        raise ValueError(
            "the VGG19 loss needs vgg_weights.uri (torchvision's vgg19-dcbb9e9d.pth); "
            "give it, or set lambda_vgg: 0 and reconstruction: l1"
        )


class DistillConfig(TrainingConfig):
    """Distillation (method sections 3 and 6)."""

    batch_size: Count = Field(default=80, description="images per optimisation step; kernel alignment needs at least 2")
    distillation: Literal["kernel_alignment", "mse", "none"] = Field(
        default="kernel_alignment", description="how teacher features are matched"
    )
    lambda_distill: NonNegative = Field(default=1.0, description="weight of the distillation loss")
    centred_kernels: bool = Field(
        default=False, description="centre the kernels (CKA) so that alignment does not saturate"
    )
    layer_weights: tuple[NonNegative, ...] | None = Field(
        default=None, description="weight per feature layer; default 1 each"
    )
    discriminator: Literal["teacher", "fresh"] = Field(default="teacher", description="where the discriminator starts")
    init: Literal["normal", "xavier"] | None = Field(
        default=None, description="initialisation of fresh weights; default: normal, for SPADE xavier"
    )
    init_gain: Positive = Field(
        default=0.02, description="standard deviation (normal) or gain (xavier) of fresh weights"
    )
    published: PublishedConfig | None = Field(default=None, description="published student generator / discriminator")

    @model_validator(mode="after")
    def _check(self) -> DistillConfig:
        if self.distillation == "kernel_alignment" and self.batch_size < 2:
            raise ValueError("batch_size must be at least 2: the kernel alignment of a single image is always 1")
        if self.distillation == "kernel_alignment" and self.centred_kernels and self.batch_size < 3:
            raise ValueError("batch_size must be at least 3: centred kernels of two images are always aligned")
        _check_epochs(self, self.published)
        return self
