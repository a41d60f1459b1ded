"""Settings of what is measured: real statistics, segmenters, LPIPS, the evaluate stage."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from components.catlib.config.networks import WeightsConfig
from components.catlib.config.sections import Count, Positive, Section, Size

Colour = tuple[float, float, float]
"""A number each for red, green and blue."""


class SegmenterConfig(Section):
    """The network that reads the classes off generated street scenes, for mIoU (method section 7)."""

    architecture: Literal["drn_d_105", "onnx"] = Field(
        default="drn_d_105",
        description="drn_d_105: the DRN-D-105, with which published mIoU is measured; onnx: any network from images "
        "[N, 3, H, W] to scores [N, 19, h, w] of Cityscapes' 19 scored classes",
    )
    weights: WeightsConfig = Field(
        description="drn_d_105: the state dict drn-d-105_ms_cityscapes.pth; onnx: the ONNX file, weights included"
    )
    input_size: Size | None = Field(
        default=None, description="height and width to which images are resized for the network; null: not resized"
    )
    mean: Colour | None = Field(
        default=None,
        description="mean of red, green and blue, subtracted from colours in [0, 1]; null: that of drn_d_105; onnx "
        "needs a value",
    )
    std: tuple[Positive, Positive, Positive] | None = Field(
        default=None,
        description="standard deviation of red, green and blue, which divides the result; null and onnx: as for mean",
    )

    @model_validator(mode="after")
    def _check(self) -> SegmenterConfig:
        if self.architecture == "onnx" and (self.mean is None or self.std is None):
            raise ValueError(
                "architecture: onnx needs the mean and std that the network was trained with; [0, 0, 0] and [1, 1, 1] "
                "leave colours in [0, 1]"
            )
        return self


LPIPS_SMALLEST_SIDE = {"alex": 31, "vgg": 16}
"""Least height and width in pixels of images that LPIPS compares, by backbone."""


class LpipsConfig(Section):
    """LPIPS: how different two images look to a network (Zhang et al. 2018)."""

    backbone: Literal["alex", "vgg"] = Field(
        default="alex", description="network that compares images; alex: AlexNet; vgg: VGG16"
    )
    weights: WeightsConfig = Field(
        description="torchvision's state dict of the backbone, alexnet-owt-7be5be79.pth or vgg16-397923af.pth"
    )


class RealStatsConfig(Section):
    """The features by which sets of images are compared."""

    features: Literal["inception", "random"] = Field(
        default="random",
        description="feature network; inception: the Inception-v3 of FID, which needs weights; random: a fixed random "
        "network, which needs none",
    )
    weights: WeightsConfig | None = Field(default=None, description="weights of the feature network (inception only)")
    published: WeightsConfig | None = Field(
        default=None,
        description="published statistics of the target domain, a .npz file with mu and sigma (inception only)",
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
            raise ValueError("published statistics describe Inception features; they need features: inception")
        return self


class EvaluateConfig(Section):
    """What is measured on the held-out images."""

    batch_size: Count = Field(default=8, description="images per forward pass")
    num_samples: Count = Field(default=8, description="number of held-out images shown as samples")
    latency_repeats: Count = Field(default=20, description="number of timed forward passes, one image each")
    segmenter: SegmenterConfig | None = Field(
        default=None, description="Cityscapes only: network that measures mIoU; null: mIoU is not measured"
    )
    lpips: LpipsConfig | None = Field(
        default=None, description="pairs only: network that measures LPIPS; null: LPIPS is not measured"
    )
