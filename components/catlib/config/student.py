"""Settings of pruning and of the ONNX file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.catlib.config.networks import NormConfig, WeightsConfig
from components.catlib.config.sections import Count, Positive, Section


class PruneConfig(Section):
    """How the student's architecture is cut from the teacher (method section 5)."""

    generator: Literal["source_to_target", "target_to_source"] = Field(
        default="source_to_target",
        description="which generator of the teacher is compressed; only CycleGAN has target_to_source",
    )
    min_channels: Count = Field(
        default=16, description="smallest number of channels that each down- and upsampling layer keeps (prune_cin_lb)"
    )
    max_first_channels: Count | None = Field(
        default=None, description="largest number of channels of the first layer (prune_cin_ub); null: no limit"
    )
    min_feature_channels: Count | None = Field(
        default=None, description="smallest feature width (prune_ft_cin_lb); null: as min_channels"
    )
    latency_table: WeightsConfig | None = Field(
        default=None,
        description="times of layers on the device that budgets in milliseconds are for, which "
        "`python -m components measure-latency` writes; null: measured on this machine when a run here needs it",
    )
    student_init: Literal["fresh", "inherit"] = Field(
        default="fresh",
        description="weights that the student starts from; fresh: new ones; inherit: those of the surviving channels",
    )
    student_norm: NormConfig | None = Field(
        default=None, description="norm of the student (fresh only); null: the teacher's"
    )
    student_padding: Literal["reflect", "replicate", "zero"] | None = Field(
        default=None, description="padding inside the student's blocks; null: the teacher's"
    )
    student_activation: Literal["relu", "leaky_relu"] | None = Field(
        default=None, description="activation function of the student; null: the teacher's"
    )

    @model_validator(mode="after")
    def _check(self) -> PruneConfig:
        if self.student_norm is not None and self.student_init == "inherit":
            raise ValueError("student_norm needs student_init: fresh, because inherited norms are the teacher's")
        return self


Rewrite = Literal["transposed_branches", "output_phases", "merged_depthwise", "shared_padding", "padded_channels"]
"""An exact rewrite of the exported graph (`components.catlib.exporting.rewriting`)."""

Precision = Literal["fp16", "int8"]
"""A precision below float32 (`components.catlib.exporting.precisions`)."""


Profile = Literal["onnxruntime", "static", "snapml", "coreml", "litert"]
"""A form of the exported generator for one kind of program (`components.catlib.exporting.profiles`)."""


class ExportConfig(Section):
    """The ONNX file, and further files for other programs."""

    opset: int = Field(default=20, ge=18, le=23, description="version of the ONNX operator set")
    tolerance: Positive = Field(
        default=1e-4, description="largest allowed difference to PyTorch, for images in [-1, 1]"
    )
    rewrites: Literal["all", "auto", "none"] | tuple[Rewrite, ...] = Field(
        default="all",
        description="other operators for the same images, which ONNX Runtime computes faster; all: every one that the "
        "family has; auto: those that are fastest on the machine that exports; none: the operators of the network; or "
        "a list of transposed_branches, output_phases, merged_depthwise, shared_padding, padded_channels",
    )
    precisions: tuple[Precision, ...] = Field(
        default=(),
        description="files of less precision to try beside model.onnx, of fp16 and int8; each is published if its "
        "PSNR against float32 is at least 40 dB and it is faster on the machine that exports; then the report also has "
        "a table of runtimes, and model.best.onnx is the fastest file",
    )
    profiles: tuple[Profile, ...] = Field(
        default=("onnxruntime",),
        description="files to write, each checked against the student; onnxruntime: model.onnx, which is always "
        "written; static: the same for one image of one size; snapml: ONNX of few operators for Lens Studio, with "
        "pixels of 0 to 255; coreml: an .mlpackage with pictures as input and output (needs the extra [coreml]); "
        "litert: a .tflite file (needs the extra [litert])",
    )
