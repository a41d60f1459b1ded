"""Settings that trainings have in common: data order, optimiser, schedule, precision, what is kept."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from components.catlib.config.losses import AdversarialConfig, GanConfig
from components.catlib.config.measuring import SegmenterConfig
from components.catlib.config.schedules import LinearConfig, ScheduleConfig
from components.catlib.config.sections import Count, Positive, Section


class TrainingConfig(Section):
    """What the trainings of teachers and students have in common."""

    moved: ClassVar[dict[str, str]] = {
        "gan_objective": "adversarial.kind",
        "lambda_gan": "adversarial.weight",
        "lambda_gradient_penalty": "adversarial.gradient_penalty",
        "step_epochs": "schedule.epochs",
        "plateau_patience": "schedule.patience",
    }

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
    schedule: ScheduleConfig = Field(default=LinearConfig(), description="learning-rate schedule")
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
    adversarial: AdversarialConfig = Field(default=GanConfig(), description="who trains against whom, and how hard")

    @model_validator(mode="after")
    def _check_compile(self) -> TrainingConfig:
        if self.compile and self.adversarial.kind == "wgangp":
            raise ValueError(
                "compile: true cannot train with adversarial: wgangp, whose gradient penalty differentiates twice, "
                "which compiled networks do not allow; set compile: false"
            )
        return self

    @model_validator(mode="after")
    def _check_plateau(self) -> TrainingConfig:
        if self.schedule.kind == "plateau" and self.evaluations < self.schedule.patience + 3:
            raise ValueError(
                f"schedule: plateau looks at the scores and needs evaluations of at least schedule.patience + 3 = "
                f"{self.schedule.patience + 3}, else it never lowers the learning rate"
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

    @model_validator(mode="after")
    def _check_epochs(self) -> TrainingConfig:
        published = getattr(self, "published", None)  # of teachers and students
        given = published.model_dump() if published is not None else {}
        if self.epochs + self.decay_epochs == 0 and not (given.get("generator") or given.get("generator_backward")):
            raise ValueError(
                "epochs and decay_epochs are both 0, which leaves nothing but published weights; "
                "give published.generator.uri or train for at least one epoch"
            )
        return self
