"""Settings that trainings have in common: data order, optimiser, schedule, precision, what is kept."""

from __future__ import annotations

import itertools
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
    moved_out: ClassVar[dict[str, str]] = {
        "log_seconds": "resources.log_seconds",
        "checkpoint_seconds": "resources.checkpoint_seconds",
        "keep_checkpoints": "resources.keep_checkpoints",
    }

    epochs: Annotated[int, Field(ge=0)] = Field(default=500, description="epochs at the full learning rate")
    decay_epochs: Annotated[int, Field(ge=0)] = Field(
        default=500, description="further epochs, in which the linear schedule lowers the learning rate to zero"
    )
    goes_on_from: tuple[Count, ...] = Field(
        default=(),
        description="epochs (epochs + decay_epochs) after which earlier trainings with the same other settings ended, "
        "oldest first; this one goes on from the checkpoint of the last of them; []: it starts at step 0",
    )
    batch_size: Count = Field(default=32, description="images per optimisation step")
    learning_rate: Positive = Field(default=2e-4, description="learning rate of Adam")
    adam_betas: tuple[Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(ge=0, lt=1)]] = Field(
        default=(0.5, 0.999), description="betas of Adam: decay rates of its two moving averages"
    )
    two_time_scales: bool = Field(
        default=False,
        description="TTUR: halve the learning rate of the generator and double that of the discriminator",
    )
    schedule: ScheduleConfig = Field(default=LinearConfig(), description="learning-rate schedule")
    flip: bool = Field(default=True, description="mirror training images left-right at random")
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="seed of weights, data order and augmentation")
    evaluations: Annotated[int, Field(ge=0)] = Field(
        default=4, description="number of times that held-out images are scored during training, evenly spread"
    )
    evaluation_images: Count = Field(
        default=256, description="largest number of held-out images scored each time; the first ones are used"
    )
    keep: Literal["best", "last"] = Field(
        default="best",
        description="which weights to keep; best: those of the best score (method section 4); last: the final ones",
    )
    segmenter: SegmenterConfig | None = Field(
        default=None,
        description="Cityscapes only: network that measures mIoU; the best score is then the highest mIoU, not the "
        "lowest Fréchet distance; a recipe takes evaluate.segmenter by default",
    )
    patience: Annotated[int, Field(ge=0)] = Field(
        default=0,
        description="number of evaluations in a row without a better score after which training ends; 0: never early",
    )
    stop_on: tuple[Literal["diverged", "collapsed"], ...] = Field(
        default=(),
        description="what ends the training with exit code 2, its checkpoint kept: diverged: the learning rate is too "
        "high; collapsed: generated images hardly depend on the input; []: a warning in the log",
    )
    time_limit_seconds: Positive | None = Field(
        default=None,
        description="seconds after which training ends with the result so far, over all its processes; null: no limit",
    )
    ema_decay: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="share of a moving average of each generator's weights that stays in every step, such as 0.999; "
        "the averaged weights are then evaluated and kept; 0: no average",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="number format in which networks compute; weights, losses and statistics are always float32; fp16 "
        "needs a GPU",
    )
    tf32: bool = Field(
        default=False, description="let GPUs round the inputs of float32 products to 10 bits, which is faster"
    )
    channels_last: bool = Field(default=False, description="keep images as NHWC in memory, which suits tensor cores")
    fuse_branches: bool = Field(
        default=False,
        description="run the parallel branches of generators' blocks together, by fewer and larger kernels; for GPUs",
    )
    compile: bool = Field(
        default=False, description="compile the trained networks (torch.compile); the first steps take long"
    )
    adversarial: AdversarialConfig = Field(
        default=GanConfig(), description="objective of generator against discriminator"
    )

    @property
    def trains(self) -> bool:
        """Whether anything is trained: without epochs, published or earlier networks are used unchanged."""
        return self.epochs + self.decay_epochs > 0

    @model_validator(mode="after")
    def _check_compile(self) -> TrainingConfig:
        if self.compile and self.adversarial.kind == "wgangp":
            raise ValueError(
                "compile: true cannot train with adversarial: wgangp, because its gradient penalty differentiates "
                "twice and compiled networks cannot; set compile: false"
            )
        return self

    @model_validator(mode="after")
    def _check_plateau(self) -> TrainingConfig:
        if self.schedule.kind == "plateau" and self.evaluations < self.schedule.patience + 3:
            raise ValueError(
                f"schedule: plateau never lowers the learning rate with evaluations: {self.evaluations}; set "
                f"evaluations to at least schedule.patience + 3 = {self.schedule.patience + 3}"
            )
        return self

    @model_validator(mode="after")
    def _check_patience(self) -> TrainingConfig:
        if self.patience and self.evaluations < self.patience + 2:
            raise ValueError(
                f"patience: {self.patience} never ends the training early with evaluations: {self.evaluations}; set "
                f"evaluations to at least patience + 2 = {self.patience + 2}"
            )
        return self

    @model_validator(mode="after")
    def _check_goes_on_from(self) -> TrainingConfig:
        lengths = (*self.goes_on_from, self.epochs + self.decay_epochs)
        if any(later <= earlier for earlier, later in itertools.pairwise(lengths)):
            raise ValueError(
                f"goes_on_from: {list(self.goes_on_from)} does not lead to epochs + decay_epochs = {lengths[-1]}; give "
                "the total epochs of each earlier training in increasing order, all below that number"
            )
        return self

    @model_validator(mode="after")
    def _check_epochs(self) -> TrainingConfig:
        published = getattr(self, "published", None)  # of teachers and students
        given = published.model_dump() if published is not None else {"generator": getattr(self, "start_from", None)}
        if self.epochs + self.decay_epochs == 0 and not (given.get("generator") or given.get("generator_backward")):
            raise ValueError(
                "epochs and decay_epochs are both 0, so nothing is trained and published weights are needed; "
                "give published.generator.uri or train for at least one epoch"
            )
        return self
