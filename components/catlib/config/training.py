"""Settings that trainings have in common: data order, optimiser, schedule, precision, what is kept."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from components.catlib.config.losses import AdversarialConfig, GanConfig
from components.catlib.config.measuring import SegmenterConfig
from components.catlib.config.schedules import LinearConfig, ScheduleConfig
from components.catlib.config.sections import Count, Positive, Section

LARGEST_SEED = 1_000_000_000_000
"""Largest seed: multiples of it are seeds of networks, and pipelines hand it over as a floating-point number."""

FAST = {"precision": "bf16", "tf32": True, "channels_last": True, "compile": True, "cudnn_benchmark": True}
"""The settings that `speed: fast` stands for."""


def cannot_split(reason: str) -> str:
    """Returns the end of the sentence that refuses `images_per_pass`.

    Args:
        reason: Why images of a batch depend on each other.
    """
    return (
        f"cannot split batches with exact gradients, because {reason}; set images_per_pass: null, and where memory is "
        "short set recompute_activations: true or a smaller batch_size"
    )


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
    steps: Count | None = Field(
        default=None,
        description="optimisation steps of the training, in place of epochs + decay_epochs; needs schedule: one_cycle; "
        "null: as many as the epochs have",
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
    seed: Annotated[int, Field(ge=0, le=LARGEST_SEED)] = Field(
        default=0, description="seed of weights, data order and augmentation"
    )
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
    speed: Literal["exact", "fast"] = Field(
        default="exact",
        description="fast: for CUDA GPUs; changes the defaults of five settings: precision to bf16, and tf32, "
        "channels_last, compile and cudnn_benchmark to true; exact: leaves them",
    )
    precision: Literal["fp32", "bf16", "fp16"] = Field(
        default="fp32",
        description="number format in which networks compute; weights, losses and statistics are always float32; fp16 "
        "needs a GPU",
    )
    tf32: bool = Field(
        default=False, description="let GPUs round the inputs of float32 products to 10 bits, which is faster"
    )
    channels_last: bool = Field(
        default=False,
        description="keep images as NHWC in memory, which suits tensor cores and, together with fuse_branches, CPUs",
    )
    fuse_branches: bool = Field(
        default=False,
        description="run the parallel branches of generators' blocks together, by fewer and larger kernels, which is "
        "faster; the same weights within rounding",
    )
    compile: bool = Field(
        default=False, description="compile the trained networks (torch.compile); the first steps take long"
    )
    recompute_activations: bool = Field(
        default=False,
        description="compute the activations inside generators a second time for the gradient instead of keeping them: "
        "less memory, more time, the same weights",
    )
    images_per_pass: Count | None = Field(
        default=None,
        description="images that go through the networks at once; the gradients of a batch's parts add up to those of "
        "the batch; null: the whole batch; refused where it exceeds batch_size, and where images of a batch depend on "
        "each other, as with batch norm",
    )
    cudnn_benchmark: bool = Field(
        default=False,
        description="let cuDNN try its algorithms for each size of image and take the fastest, which may differ from "
        "run to run",
    )
    adversarial: AdversarialConfig = Field(
        default=GanConfig(), description="objective of generator against discriminator"
    )

    @model_validator(mode="before")
    @classmethod
    def _resolve_speed(cls, settings: Any) -> Any:
        """Fills in what `speed: fast` stands for, so that everything behind reads the five settings alone."""
        if isinstance(settings, Mapping) and settings.get("speed") == "fast":
            return {**FAST, **settings}
        return settings

    @property
    def trains(self) -> bool:
        """Whether anything is trained: without epochs, published or earlier networks are used unchanged."""
        return self.epochs + self.decay_epochs > 0

    def total_steps(self, steps_per_epoch: int) -> int:
        """Returns the number of optimisation steps, for data of which an epoch takes so many."""
        return self.steps or (self.epochs + self.decay_epochs) * steps_per_epoch

    @model_validator(mode="after")
    def _check_steps(self) -> TrainingConfig:
        if self.steps is None:
            return self
        if self.schedule.kind != "one_cycle":
            raise ValueError(
                f"steps: {self.steps} needs a learning rate that falls by the step, but schedule: {self.schedule.kind} "
                "goes by epochs; set schedule: one_cycle, or steps: null"
            )
        if self.goes_on_from:
            raise ValueError(
                f"steps: {self.steps} and goes_on_from cannot be combined, because trainings are found by their "
                "epochs; set steps: null, or goes_on_from: []"
            )
        return self

    @model_validator(mode="after")
    def _check_compile(self) -> TrainingConfig:
        if self.compile and self.adversarial.kind == "wgangp":
            raise ValueError(
                f"compile: true{self._of_speed()} cannot train with adversarial: "
                "wgangp, because its gradient penalty differentiates twice and compiled networks cannot; set "
                "compile: false"
            )
        return self

    def _of_speed(self) -> str:
        return " (of speed: fast)" if self.speed == "fast" else ""

    @model_validator(mode="after")
    def _check_recomputing(self) -> TrainingConfig:
        if self.compile and self.recompute_activations:
            raise ValueError(
                f"compile: true{self._of_speed()} cannot train with recompute_activations: true, because the compiler "
                "itself chooses what to keep; set one of the two to false"
            )
        return self

    @property
    def splits_batches(self) -> bool:
        """Whether a batch goes through the networks in parts."""
        return self.images_per_pass is not None and self.images_per_pass < self.batch_size

    @model_validator(mode="after")
    def _check_images_per_pass(self) -> TrainingConfig:
        if (self.images_per_pass or 0) > self.batch_size:
            raise ValueError(
                f"images_per_pass: {self.images_per_pass} is more than a batch holds with batch_size: "
                f"{self.batch_size}; set images_per_pass to a smaller number, or to null for the whole batch"
            )
        reason = next(self.undivided(), None) if self.splits_batches else None
        if reason is not None:
            raise ValueError(f"images_per_pass: {self.images_per_pass} {cannot_split(reason)}")
        return self

    def undivided(self) -> Iterator[str]:
        """Yields why parts of a batch would not give the gradients of the whole, as far as this section shows it."""
        if self.adversarial.kind == "wgangp":
            yield "adversarial: wgangp draws random numbers for the images of a whole batch"

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
