"""Settings of pruning and of the ONNX file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.catlib.config.networks import NormConfig
from components.catlib.config.sections import Count, Positive, Section


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


class ExportConfig(Section):
    """The ONNX file."""

    opset: int = Field(default=20, ge=18, le=23, description="ONNX operator set")
    tolerance: Positive = Field(default=1e-4, description="largest allowed difference to PyTorch, images in [-1, 1]")
