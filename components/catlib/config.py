"""Recipe models: every setting of every stage, its unit, its default and its bounds.

A recipe is a YAML file validated by [Recipe][]; a stage receives only its own section. Defaults live here and nowhere
else. Kubeflow delivers JSON numbers as floats, so integer fields accept 64.0.
"""

from __future__ import annotations

import difflib
import re
import types
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from components.catlib.errors import UserError

RECIPE_FOLDER = Path(__file__).resolve().parents[2] / "pipelines" / "recipes"

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]


class Section(BaseModel):
    """A part of a recipe: immutable, and no key that it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def _refuse_idle(section: Section, settings: tuple[str, ...], *, reason: str) -> None:
    """Refuses settings that would have no effect beside the others, unless they have their default or are off.

    Raises:
        ValueError: Names the first one, and why it has no effect.
    """
    for name in settings:
        value, default = getattr(section, name), type(section).model_fields[name].default
        if value != default and value:
            raise ValueError(f"{name} has no effect {reason}; leave it out")


# ---------------------------------------------------------------------------------------------------------------- sizes


def _as_height_width(value: Any) -> Any:
    """Reads 256 as (256, 256)."""
    return (value, value) if isinstance(value, int | float) else value


Size = Annotated[tuple[Count, Count], BeforeValidator(_as_height_width)]
"""Height and width in pixels; a single number means a square."""


# -------------------------------------------------------------------------------------------------------------- budgets


def parse_budget(text: str | float) -> tuple[float, bool]:
    """Reads a compute budget.

    Args:
        text: MACs such as `2.6e9`, or a share of the teacher's MACs such as `"0.05x"`.

    Returns:
        The number and whether it is a share of the teacher's MACs.

    Raises:
        UserError: The text is neither, or not positive and finite.
    """
    written = str(text).strip()
    ratio = written.lower().endswith("x")
    try:
        value = float(written[:-1] if ratio else written)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise UserError(
            f"Budget {written!r} is not a compute budget: give MACs such as 2.6e9, "
            "or a share of the teacher such as 0.05x."
        )
    return value, ratio


def _budget_text(value: str | float) -> str:
    number, ratio = parse_budget(value)
    short = f"{number:g}"
    return (short if float(short) == number else repr(number).removesuffix(".0")) + "x" * ratio


Budget = Annotated[str, BeforeValidator(_budget_text)]
"""A compute budget as text: `2.6e+09` MACs or `0.05x` of the teacher's MACs."""


# ------------------------------------------------------------------------------------------------------------- networks


class NormConfig(Section):
    """Normalisation layers of a network."""

    kind: Literal["instance", "batch", "syncbatch"] = Field(default="instance", description="statistics over what")
    affine: bool = Field(default=True, description="learn a scale and a bias per channel; pruning needs the scales")
    track_running_stats: bool = Field(default=False, description="normalise with running statistics at evaluation")
    momentum: float = Field(default=0.1, gt=0, le=1, description="weight of the newest batch in running statistics")
    epsilon: float = Field(default=1e-5, gt=0, description="added to the variance")


class GeneratorConfig(Section):
    """A generator before pruning (paper section 3.1; method sections 1.1 and 1.2)."""

    family: Literal["inception", "inception_spade"] = Field(default="inception", description="network family")
    base_channels: Count = Field(
        default=64, description="ngf: channels of the first layer; the bottleneck has 4x (SPADE: 16x)"
    )
    num_blocks: Count = Field(default=9, description="inception residual blocks (inception family only)")
    kernel_sizes: tuple[Count, ...] = Field(default=(1, 3, 5), description="odd kernel sizes K of the branches")
    channels_reduction_factor: Count = Field(
        default=6, description="hidden channels of a branch = block channels // factor"
    )
    hidden_channels: tuple[Annotated[int, Field(ge=0)], ...] | None = Field(
        default=None,
        description="hidden channels per kernel size before division by the factor, of blocks and SPADE norms; "
        "default: the block's channels, in SPADE norms spade_hidden_channels",
    )
    norm: NormConfig = Field(default=NormConfig(), description="normalisation (for SPADE: the norms inside branches)")
    padding: Literal["reflect", "replicate", "zero"] = Field(default="reflect", description="padding inside the blocks")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="dropout rate inside branches")
    activation: Literal["relu", "leaky_relu"] = Field(default="relu", description="leaky_relu has slope 0.01")
    num_upsampling_layers: Literal["normal", "more", "most"] = Field(
        default="more", description="SPADE only: x32, x64 or x128"
    )
    spade_norm: Literal["batch", "syncbatch", "instance"] = Field(
        default="syncbatch", description="SPADE only: the parameter-free norm that is modulated"
    )
    spade_hidden_channels: Count = Field(
        default=128, description="SPADE only: hidden channels before division by the factor"
    )
    spectral: bool = Field(default=False, description="SPADE only: spectral norm on convolutions")
    init: Literal["normal", "xavier"] = Field(default="normal", description="weight initialisation")
    init_gain: Positive = Field(default=0.02, description="standard deviation (normal) or gain (xavier)")

    @model_validator(mode="after")
    def _check(self) -> GeneratorConfig:
        distinct = len(set(self.kernel_sizes)) == len(self.kernel_sizes)
        if not self.kernel_sizes or not distinct or any(k % 2 == 0 for k in self.kernel_sizes):
            raise ValueError("kernel_sizes must be odd and distinct numbers, at least one")
        if self.hidden_channels is not None and len(self.hidden_channels) != len(self.kernel_sizes):
            raise ValueError("hidden_channels must have one number per kernel size")
        if self.family == "inception":
            spade = ("num_upsampling_layers", "spade_norm", "spade_hidden_channels", "spectral")
            _refuse_idle(self, spade, reason="in an inception generator, only in inception_spade")
        else:
            _refuse_idle(self, ("num_blocks", "padding"), reason="in an inception_spade generator, only in inception")
        return self


class DiscriminatorConfig(Section):
    """A discriminator (method section 2)."""

    family: Literal["patch", "pixel", "multiscale"] = Field(
        default="patch", description="PatchGAN, PixelGAN or multi-scale"
    )
    base_channels: Count = Field(default=64, description="ndf: channels of the first layer")
    num_layers: Count = Field(default=3, description="strided layers of a PatchGAN; 3 sees 70x70 pixels")
    num_scales: Count = Field(default=2, description="multi-scale only: how many PatchGANs")
    norm: NormConfig = Field(
        default=NormConfig(), description="norm of the middle layers (multi-scale: always spectral + instance)"
    )
    init: Literal["normal", "xavier"] = Field(default="normal", description="weight initialisation")
    init_gain: Positive = Field(default=0.02, description="standard deviation (normal) or gain (xavier)")


class WeightsConfig(Section):
    """Weights from outside: a file or URI, and the digest that makes them trustworthy."""

    uri: str = Field(description="path, s3:// or https:// address of the file")
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$", description="expected digest of the file")


Colour = tuple[float, float, float]
"""A number each for red, green, blue."""


class SegmenterConfig(Section):
    """The network that reads the classes off generated street scenes, for mIoU (method section 7)."""

    architecture: Literal["drn_d_105", "onnx"] = Field(
        default="drn_d_105",
        description="drn_d_105: the DRN-D-105 that published mIoU is measured with; onnx: any network that makes of "
        "images [N, 3, H, W] the scores [N, 19, h, w] of Cityscapes' 19 scored classes",
    )
    weights: WeightsConfig = Field(
        description="drn_d_105: the state dict drn-d-105_ms_cityscapes.pth; onnx: the file, weights included"
    )
    input_size: Size | None = Field(
        default=None, description="resize generated images to this height, width first; None: as they are"
    )
    mean: Colour | None = Field(
        default=None,
        description="subtracted from colours in [0, 1]; drn_d_105: None means the network's own; onnx: needed",
    )
    std: tuple[Positive, Positive, Positive] | None = Field(
        default=None, description="divides colours after that; None as for mean"
    )

    @model_validator(mode="after")
    def _check(self) -> SegmenterConfig:
        if self.architecture == "onnx" and (self.mean is None or self.std is None):
            raise ValueError(
                "architecture: onnx needs mean and std, what the network was trained with; [0, 0, 0] and [1, 1, 1] "
                "leave colours in [0, 1]"
            )
        return self


class LpipsConfig(Section):
    """LPIPS, how different two images look to a network (Zhang et al. 2018)."""

    backbone: Literal["alex", "vgg"] = Field(default="alex", description="AlexNet, or VGG16")
    weights: WeightsConfig = Field(
        description="torchvision's state dict of it, alexnet-owt-7be5be79.pth or vgg16-397923af.pth"
    )


class PublishedConfig(Section):
    """Networks published by the reference implementation (`.pth` state dicts) to start from."""

    generator: WeightsConfig | None = Field(default=None, description="generator source -> target")
    discriminator: WeightsConfig | None = Field(default=None, description="judges target images")
    generator_backward: WeightsConfig | None = Field(default=None, description="CycleGAN: generator target -> source")
    discriminator_backward: WeightsConfig | None = Field(default=None, description="CycleGAN: judges source images")


# --------------------------------------------------------------------------------------------------------------- stages


class DatasetConfig(Section):
    """What the dataset stage reads and how it packs it."""

    source: str = Field(
        default="builtin:relief-to-satellite",
        description="a folder or an archive (.zip, .tar, .tar.gz): a path, https://, s3:// or minio:// address; the "
        "name of a known dataset: horse2zebra, apple2orange, summer2winter_yosemite, monet2photo, facades, maps, "
        "edges2shoes, edges2handbags, cityscapes; or built-in data: builtin:relief-to-satellite, "
        "builtin:satellite-to-relief, builtin:climate-to-satellite, builtin:satellite-to-relief-unpaired",
    )
    sha256: str | None = Field(
        default=None,
        pattern="^[0-9a-f]{64}$",
        description="expected digest of the source, when that is a single archive",
    )
    layout: Literal["auto", "combined", "parallel", "unpaired", "single", "cityscapes"] = Field(
        default="auto",
        description="combined: A|B side by side in train/ test/; parallel: folders A and B with equal names; "
        "unpaired: trainA trainB testA testB; single: one folder; cityscapes: gtFine/ and leftImg8bit/ as distributed, "
        "photos are A and maps B; auto: recognised from the folders",
    )
    direction: Literal["AtoB", "BtoA"] = Field(default="AtoB", description="which domain is the source (input)")
    load_size: Size = Field(default=(286, 286), description="training images are packed at this height, width")
    crop_size: Size = Field(default=(256, 256), description="training crops and evaluation images: height, width")
    prepared_size: Size | None = Field(
        default=None,
        description="pictures only: resize to this height, width before anything else, as published datasets of "
        "smaller pictures were made (Cityscapes for pix2pix: 256)",
    )
    num_labels: int | None = Field(default=None, ge=1, le=255, description="label maps only: number of classes")
    dont_care_plane: bool = Field(
        default=False,
        description="label maps only: pixels labelled 255 (no class) get a plane of their own instead of zeros",
    )
    test_fraction: float = Field(
        default=0.1, ge=0, lt=1, description="share of images held out when the source has no test or val split"
    )
    max_images: Count | None = Field(default=None, description="keep at most this many images per split (first ones)")
    on_error: Literal["fail", "skip"] = Field(
        default="fail",
        description="what to do with images that cannot be read, lack a partner or differ from it in size",
    )

    @model_validator(mode="after")
    def _check(self) -> DatasetConfig:
        if self.load_size[0] < self.crop_size[0] or self.load_size[1] < self.crop_size[1]:
            raise ValueError(f"load_size {self.load_size} must be at least crop_size {self.crop_size}")
        if self.prepared_size is not None and self.num_labels is not None:
            raise ValueError("prepared_size is for pictures; label maps (num_labels) are resized once, remove it")
        return self


class RealStatsConfig(Section):
    """Which features the distances between image sets use."""

    features: Literal["inception", "random"] = Field(
        default="random",
        description="inception: the FID Inception-v3 (needs weights); random: a fixed random network, which needs none",
    )
    weights: WeightsConfig | None = Field(default=None, description="weights of the feature network")
    published: WeightsConfig | None = Field(
        default=None, description="published statistics of the target domain, .npz with mu and sigma (inception only)"
    )
    batch_size: Count = Field(default=32, description="images per forward pass")

    @model_validator(mode="after")
    def _check(self) -> RealStatsConfig:
        if self.features == "inception" and self.weights is None:
            raise ValueError(
                "features: inception needs weights.uri, the file pt_inception-2015-12-05-6726825d.pth; "
                "without it use features: random, whose distance is not called FID"
            )
        if self.features != "inception" and self.published is not None:
            raise ValueError("published statistics are of Inception features; they need features: inception")
        return self


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
    generator: GeneratorConfig = Field(default=GeneratorConfig(), description="the large generator")
    discriminator: DiscriminatorConfig = Field(default=DiscriminatorConfig(), description="its opponent")
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
        _refuse_idle(self, IDLE_LOSSES[self.family], reason=f"in a teacher of family {self.family}")
        if self.family != "cyclegan":
            cyclegan = ("lambda_cycle", "lambda_identity", "image_pool_size")
            _refuse_idle(self, cyclegan, reason=f"in a teacher of family {self.family}, only in cyclegan")
            if self.published is not None:
                backward = ("generator_backward", "discriminator_backward")
                _refuse_idle(self.published, backward, reason=f"in a teacher of family {self.family}, only in cyclegan")
        _check_vgg(self, uses_perceptual=spade)
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
        _refuse_idle(section, IDLE_LOSSES["spade" if label_maps else "pix2pix"], reason=f"with {kind} teacher")
    except ValueError as error:
        raise UserError(f"distill.{error}.") from error


def _check_epochs(section: TrainingConfig, published: PublishedConfig | None) -> None:
    generators = (published.generator, published.generator_backward) if published is not None else ()
    if section.epochs + section.decay_epochs == 0 and not any(generators):
        raise ValueError(
            "epochs and decay_epochs are both 0, which leaves nothing but published weights; "
            "give published.generator.uri or train for at least one epoch"
        )


def _check_vgg(section: TrainingConfig, *, uses_perceptual: bool) -> None:
    wanted = section.reconstruction == "vgg" or (uses_perceptual and section.lambda_vgg > 0)
    if wanted and section.vgg_weights is None:
        raise ValueError(
            "the VGG19 loss needs vgg_weights.uri (torchvision's vgg19-dcbb9e9d.pth); "
            "give it, or set lambda_vgg: 0 and reconstruction: l1"
        )


class PruneConfig(Section):
    """How the student's architecture is cut from the teacher (method section 5)."""

    generator: Literal["source_to_target", "target_to_source"] = Field(
        default="source_to_target",
        description="which generator of the teacher is compressed; the second exists for CycleGAN",
    )
    min_channels: Count = Field(
        default=16, description="each down/up layer keeps at least this many channels (prune_cin_lb)"
    )
    max_first_channels: Count | None = Field(
        default=None, description="cap on the first layer's channels (prune_cin_ub)"
    )
    min_feature_channels: Count | None = Field(default=None, description="floor on the feature width (prune_ft_cin_lb)")
    student_init: Literal["fresh", "inherit"] = Field(
        default="fresh", description="fresh weights, or the surviving ones"
    )
    student_norm: NormConfig | None = Field(default=None, description="another norm for the student (fresh only)")
    student_padding: Literal["reflect", "replicate", "zero"] | None = Field(
        default=None, description="another padding inside the student's blocks"
    )
    student_activation: Literal["relu", "leaky_relu"] | None = Field(default=None, description="another activation")

    @model_validator(mode="after")
    def _check(self) -> PruneConfig:
        if self.student_norm is not None and self.student_init == "inherit":
            raise ValueError("student_norm needs student_init: fresh, since inherited norms are the teacher's")
        return self


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


class EvaluateConfig(Section):
    """What is measured on the held-out images."""

    batch_size: Count = Field(default=8, description="images per forward pass")
    num_samples: Count = Field(default=8, description="rows of the sample grid")
    latency_repeats: Count = Field(default=20, description="timed forward passes at batch 1")
    segmenter: SegmenterConfig | None = Field(
        default=None, description="Cityscapes only: what mIoU is measured with; None: it is not measured"
    )
    lpips: LpipsConfig | None = Field(
        default=None, description="held-out pairs only: what LPIPS is measured with; None: it is not measured"
    )


class ExportConfig(Section):
    """The ONNX file."""

    opset: int = Field(default=20, ge=18, le=23, description="ONNX operator set")
    tolerance: Positive = Field(default=1e-4, description="largest allowed difference to PyTorch, images in [-1, 1]")


class SweepConfig(Section):
    """Which students the sweep pipeline compares; each is made at every budget, with every seed."""

    variations: tuple[dict[str, Any], ...] = Field(
        default=({"lambda_distill": 0.0}, {}),
        min_length=1,
        description="differences to the distill section, one per student",
    )
    seeds: tuple[Annotated[int, Field(ge=0)], ...] = Field(
        default=(0,), min_length=1, description="replace distill.seed; several show how much is chance"
    )


class TrackingConfig(Section):
    """A registry of runs beside Kubeflow's."""

    uri: str | None = Field(
        default=None, description="address of an MLflow server that keeps every student; None: none does"
    )
    experiment: str = Field(default="cat", description="group of runs in MLflow")


class ReportConfig(Section):
    """What the page at the end of a run says about the run; made from the recipe's name and description."""

    name: str = Field(default="run", description="heading")
    description: str = Field(default="", description="one sentence below the heading")
    tracking: TrackingConfig = TrackingConfig()


# --------------------------------------------------------------------------------------------------------- on a cluster


StageName = Literal["dataset", "real_stats", "teacher", "prune", "distill", "evaluate", "export", "report", "other"]
"""The stages; other: fetching earlier artifacts, planning a sweep."""


class StageResources(Section):
    """What one stage gets on a cluster; what is not given comes from the profile."""

    cpu: str | None = Field(
        default=None, pattern=r"^\d+(\.\d+)?m?$", description="cores that are reserved, such as 4 or 500m"
    )
    memory: str | None = Field(
        default=None, pattern=r"^\d+(Mi|Gi)$", description="memory that is reserved, such as 16Gi"
    )
    gpus: Annotated[int, Field(ge=0)] | None = Field(default=None, description="accelerators")
    hours: Positive | None = Field(default=None, description="time limit of one attempt in hours")
    retries: Annotated[int, Field(ge=0)] | None = Field(default=None, description="attempts after the first")


class Toleration(Section):
    """A taint of nodes that the stages with accelerators put up with."""

    key: str | None = Field(default=None, description="the taint; None with operator Exists means every taint")
    operator: Literal["Exists", "Equal"] = Field(default="Exists", description="whether the value matters")
    value: str | None = Field(default=None, description="the taint's value, with operator Equal")
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = Field(
        default=None, description="None means every"
    )


class ResourcesConfig(Section):
    """What the stages get on a cluster; nothing here changes a result, and no stage sees it."""

    profile: Literal["cpu", "gpu", "multi-gpu"] = Field(
        default="cpu",
        description="cpu: no accelerators; gpu: one for each stage that runs networks; multi-gpu: four to train",
    )
    stages: dict[StageName, StageResources] = Field(default={}, description="differences from the profile, by stage")
    accelerator: str = Field(default="nvidia.com/gpu", description="Kubernetes resource name of an accelerator")
    node_selector: dict[str, str] = Field(default={}, description="labels of the nodes with accelerators")
    tolerations: tuple[Toleration, ...] = Field(
        default=(Toleration(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),),
        description="taints of the nodes with accelerators",
    )
    store_secret: str | None = Field(
        default=None,
        description="Secret with S3_ENDPOINT, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for stages that read or "
        "write s3:// addresses themselves",
    )
    checkpoints: str | None = Field(
        default=None,
        description="s3:// address below which trainings keep their state, so that a retry resumes; None: nowhere",
    )
    parallel_students: Annotated[int, Field(ge=0)] = Field(
        default=0, description="students made at a time; 0 means all"
    )
    days_limit: Positive = Field(default=21.0, description="the whole run ends after this many days")
    days_kept: Positive = Field(
        default=7.0, description="pods and workflow are removed so many days after the run; artifacts stay"
    )


class Recipe(Section):
    """One run of the pipeline, from images to an exported student."""

    name: str = Field(description="short name")
    description: str = Field(description="one sentence: what is translated, with what, for whom")
    budgets: tuple[Budget, ...] = Field(min_length=1, description="one student per compute budget")
    dataset: DatasetConfig = DatasetConfig()
    real_stats: RealStatsConfig = RealStatsConfig()
    teacher: TeacherConfig = TeacherConfig()
    prune: PruneConfig = PruneConfig()
    distill: DistillConfig = DistillConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    export: ExportConfig = ExportConfig()
    sweep: SweepConfig = SweepConfig()
    resources: ResourcesConfig = ResourcesConfig()
    tracking: TrackingConfig = TrackingConfig()

    @model_validator(mode="before")
    @classmethod
    def _share_segmenter(cls, settings: Any) -> Any:
        """Lets trainings choose their weights by the mIoU that the evaluation measures, unless they say otherwise."""
        evaluate = settings.get("evaluate") if isinstance(settings, dict) else None
        if not isinstance(evaluate, dict) or evaluate.get("segmenter") is None:
            return settings
        shared = {"segmenter": evaluate["segmenter"]}
        trainings = {name: settings.get(name, {}) for name in ("teacher", "distill")}
        return settings | {name: shared | own for name, own in trainings.items() if isinstance(own, dict)}

    @model_validator(mode="after")
    def _check(self) -> Recipe:
        _check_vgg(self.distill, uses_perceptual=self.teacher.family == "spade")
        for variation in self.sweep.variations:
            validate(DistillConfig, self.section("distill") | variation, where="sweep.variations")
        return self

    @property
    def report(self) -> ReportConfig:
        """The report stage's section."""
        return ReportConfig(name=self.name, description=self.description, tracking=self.tracking)

    def section(self, name: str) -> dict[str, Any]:
        """Returns one stage's settings as JSON values without nulls, the form in which a pipeline hands them over."""
        return getattr(self, name).model_dump(mode="json", exclude_none=True)


# -------------------------------------------------------------------------------------------------------------- loading


def recipe_names() -> list[str]:
    """Returns the names of the recipes that come with the project."""
    return sorted(path.stem for path in RECIPE_FOLDER.glob("*.yaml"))


def named_files(settings: Any) -> list[str]:
    """Finds the files and folders outside a run that settings name: every `source` and `uri`, built-in data aside.

    Args:
        settings: A recipe or a section of it as JSON values.
    """
    if not isinstance(settings, dict):
        return []
    here = [
        value
        for key, value in settings.items()
        if key in ("source", "uri") and isinstance(value, str) and not value.startswith("builtin:")
    ]
    return here + [address for value in settings.values() for address in named_files(value)]


DEFAULTS = {"name": "defaults", "description": "The default of every setting.", "budgets": ["0.1x"]}


def load_recipe(
    name_or_file: str | None, overrides: list[str] | None = None, budgets: list[str] | None = None
) -> Recipe:
    """Reads a recipe, applies overrides and validates the whole.

    Args:
        name_or_file: A name from [recipe_names][] or the path of a YAML file; None means the defaults alone.
        overrides: `SECTION.KEY=VALUE` texts; VALUE is read as YAML.
        budgets: Replaces the recipe's budgets.

    Raises:
        UserError: No such recipe, not YAML, an unknown key (the nearest valid one is named) or a value out of bounds.
    """
    settings, where = (dict(DEFAULTS), "Defaults") if name_or_file is None else _read_recipe(name_or_file)
    for override in overrides or []:
        _override(settings, override)
    if budgets:
        settings["budgets"] = budgets
    return validate(Recipe, settings, where=where)


def _read_recipe(name_or_file: str) -> tuple[dict[str, Any], str]:
    """Returns the settings in a recipe file and how to call it in messages."""
    path = Path(name_or_file)
    if path.suffix not in (".yaml", ".yml"):
        path = RECIPE_FOLDER / f"{name_or_file}.yaml"
        if not path.is_file():
            raise UserError(
                f"There is no recipe {name_or_file!r}{_nearest(name_or_file, recipe_names())}; "
                f"known: {', '.join(recipe_names())}; or give the path of a .yaml file."
            )
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"Recipe {path} cannot be read: {reason}") from error
    if not isinstance(settings, dict):
        raise UserError(f"Recipe {path} is not a YAML mapping of sections.")
    return settings, f"Recipe {path.name}"


SectionType = typing.TypeVar("SectionType", bound=BaseModel)


def validate(model: type[SectionType], settings: Any, *, where: str) -> SectionType:
    """Validates settings against a model and turns the first complaint into one sentence.

    Raises:
        UserError: Names the key, what was found and what was expected.
    """
    try:
        return model.model_validate(settings)
    except ValidationError as error:
        raise UserError(f"{where}: {_first_complaint(model, error)}") from error


def _override(settings: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"--set {override!r} is not of the form SECTION.KEY=VALUE, for example teacher.epochs=2.")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"--set {override!r}: the value is not YAML.") from error
    if isinstance(value, str) and re.fullmatch(r"[+-]?\d+(\.\d*)?[eE][+-]?\d+", value):
        value = float(value)  # YAML 1.1 reads 2e-4 as text
    *parents, leaf = key.strip().split(".")
    node = settings
    for parent in parents:
        if not isinstance(node.get(parent), dict):
            node[parent] = {}
        node = node[parent]
    node[leaf] = value


def _first_complaint(model: type[BaseModel], error: ValidationError) -> str:
    complaint = error.errors(include_url=False)[0]
    key = ".".join(str(part) for part in complaint["loc"])
    if complaint["type"] == "extra_forbidden":
        *parents, leaf = complaint["loc"]
        names = _field_names(model, parents)
        hint = _nearest(str(leaf), names) or f"; valid keys here: {', '.join(names)}"
        return f"unknown key {key!r}{hint}."
    message = complaint["msg"].removeprefix("Value error, ").rstrip(".")
    found = complaint.get("input")
    shown = f" (found {found!r})" if isinstance(found, str | int | float | bool | list | tuple) else ""
    return f"{key + ': ' if key else ''}{message}{shown}."


def _field_names(model: type[BaseModel], parents: list[int | str]) -> list[str]:
    """Follows a path of keys through nested models to the valid keys at its end."""
    for parent in parents:
        field = model.model_fields.get(str(parent))
        if field is None:
            continue
        options = [field.annotation]
        if typing.get_origin(field.annotation) in (typing.Union, types.UnionType):
            options = list(typing.get_args(field.annotation))
        nested = [option for option in options if isinstance(option, type) and issubclass(option, BaseModel)]
        if not nested:
            return []
        model = nested[0]
    return list(model.model_fields)


def _nearest(name: str, valid: list[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
