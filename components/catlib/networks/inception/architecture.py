"""The architecture of the inception residual generator: which layers it holds, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from components.catlib.config import Count, NormConfig, Section
from components.catlib.config.networks import InceptionConfig, Upsample
from components.catlib.errors import UserError
from components.catlib.networks.architecture import InputKind, example_images
from components.catlib.networks.layers import (
    BranchChannels,
    BranchPaths,
    ImageSize,
    Layer,
    LayerTable,
    PrunableNorm,
    Space,
    check_branches,
    check_kernel_sizes,
    existing_branches,
    resized_branches,
    unpruned,
)

INCEPTION_PATHS = {
    "res": BranchPaths(".1.0", ".1.1", "", "", ".4"),
    "dw": BranchPaths(".0.0", ".0.1", ".2.0", ".2.1", ".4"),
}


class InceptionArchitecture(Section):
    """The inception residual generator of pix2pix and CycleGAN (method section 1.1).

    Convolutions have a bias exactly when the norm is instance norm; the last one always has one.
    """

    input_kind: ClassVar[InputKind] = "images"

    family: Literal["inception"] = "inception"
    in_channels: Count = Field(description="channels of the source image")
    out_channels: Count = Field(description="channels of the target image")
    down: tuple[Count, Count, Count] = Field(description="channels of the down layers; the last is the feature width")
    blocks: tuple[BranchChannels, ...] = Field(description="hidden channels of every residual block")
    up: tuple[Count, Count] = Field(description="channels of the up layers")
    kernel_sizes: tuple[Count, ...] = Field(description="odd kernel sizes K of the branches")
    norm: NormConfig = Field(description="every norm of the network")
    padding: Literal["reflect", "replicate", "zero"] = Field(description="padding inside the blocks")
    dropout: float = Field(ge=0, lt=1, description="dropout rate inside branches")
    activation: Literal["relu", "leaky_relu"] = Field(description="inside the blocks; leaky_relu has slope 0.01")
    upsample: Upsample = Field(default="transposed", description="the up layers; files leave the published kind out")

    @model_validator(mode="after")
    def _check(self) -> InceptionArchitecture:
        check_kernel_sizes(self.kernel_sizes)
        for i, block in enumerate(self.blocks):
            check_branches(block, self.kernel_sizes, f"blocks.{i}")
        return self

    @model_serializer(mode="wrap")
    def _without_published_upsampling(self, write: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leaves the default out, so that files of published networks stay what they were."""
        written = write(self)
        if self.upsample == "transposed":
            written.pop("upsample", None)
        return written

    @property
    def size_step(self) -> int:
        """Height and width must be multiples of 4 pixels, because they are halved twice."""
        return 4

    @property
    def smallest_size(self) -> int:
        """Least height and width in pixels: features must be wider than their reflected edge."""
        reflected = max(self.kernel_sizes) // 2 if self.padding == "reflect" else 0
        return self.size_step * (reflected + 1)

    @property
    def fixed_size(self) -> None:
        """None: it takes any size."""
        return None

    @property
    def feature_widths(self) -> dict[str, int]:
        """Channels of the distillation layers: the last down-sampling ReLU, and the end of each third of the blocks."""
        count = len(self.blocks)
        ends = {-(-count * third // 3) - 1 for third in (1, 2, 3)} if count else set()
        return dict.fromkeys(("down_sampling.9", *(f"features.{end}" for end in sorted(ends))), self.down[-1])

    def check_size(self, height: int, width: int, *, where: str) -> None:
        """Refuses images that cannot be halved evenly or are too small; raises UserError."""
        if height % self.size_step or width % self.size_step or min(height, width) < self.smallest_size:
            fitting = [max(side // self.size_step * self.size_step, self.smallest_size) for side in (height, width)]
            raise UserError(
                f"{where} has images of {height}x{width} pixels, which an inception generator cannot translate: height "
                f"and width must be multiples of {self.size_step}, at least {self.smallest_size}; set "
                f"dataset.crop_size to [{fitting[0]},{fitting[1]}]."
            )

    def example_input(self, count: int, size: ImageSize, *, seed: int = 0) -> np.ndarray:
        """Returns noise, float32 [count, in_channels, height, width] in [-1, 1)."""
        return example_images(count, self.in_channels, size, seed=seed)

    @property
    def convs_have_bias(self) -> bool:
        """Whether convolutions other than the last have a bias."""
        return self.norm.kind == "instance"

    def layers(self, height: int, width: int) -> list[Layer]:
        """Returns every layer that exists, in the order of the network, for an input of this size in pixels."""
        table = LayerTable()
        bias = self.convs_have_bias
        norm: dict[str, Any] = {"affine": self.norm.affine, "tracks": self.norm.track_running_stats}
        size, channels = (height, width), Space("source", self.in_channels)
        for i, count in enumerate(self.down):
            conv, scale = f"down_sampling.{3 * i + 1}", f"down_sampling.{3 * i + 2}"
            target = Space(scale, count)
            size = table.conv(conv, channels, target, size, kernel_size=3 if i else 7, bias=bias, stride=2 if i else 1)
            table.norm(scale, target, size, **norm)
            channels = target
        for i, block in enumerate(self.blocks):
            for branch in existing_branches(block, self.kernel_sizes, f"features.{i}"):
                table.branch(
                    branch,
                    INCEPTION_PATHS[branch.kind],
                    channels,
                    channels,
                    size,
                    bias=bias,
                    affine_depthwise=self.norm.affine,
                    **norm,
                )
            if not block.vanished:
                table.norm(f"features.{i}.pw_bn", channels, size, **norm)
        for i, count in enumerate(self.up):
            target = Space(f"up_sampling.{3 * i + 1}", count)
            size = table.upsampling(f"up_sampling.{3 * i}", channels, target, size, upsample=self.upsample, bias=bias)
            table.norm(target.name, target, size, **norm)
            channels = target
        table.conv("up_sampling.7", channels, Space("target", self.out_channels), size, kernel_size=7, bias=True)
        return table.layers

    def prunable_norms(self) -> list[PrunableNorm]:
        """Returns the norms whose scales are compared with the threshold, in the order of the network."""
        first, second, last = self.down
        down = [
            PrunableNorm("down_sampling.2", "first", first, floor="min_channels", capped=True),
            PrunableNorm("down_sampling.5", "down", second, floor="min_channels"),
            PrunableNorm("down_sampling.8", "feature", last, floor="min_feature_channels"),
        ]
        branches = [
            PrunableNorm(branch.path + INCEPTION_PATHS[branch.kind].norm_in, "branch", branch.hidden_channels)
            for i, block in enumerate(self.blocks)
            for branch in existing_branches(block, self.kernel_sizes, f"features.{i}")
        ]
        up = [
            PrunableNorm(f"up_sampling.{3 * i + 1}", "up", count, floor="min_channels")
            for i, count in enumerate(self.up)
        ]
        return down + branches + up

    def resized(self, widths: Mapping[str, int]) -> InceptionArchitecture:
        """Returns this architecture with other channel counts.

        Args:
            widths: Number of channels by the name of every prunable norm; 0 removes a branch.
        """
        blocks = tuple(
            resized_branches(block, self.kernel_sizes, f"features.{i}", INCEPTION_PATHS, widths)
            for i, block in enumerate(self.blocks)
        )
        return self.model_copy(
            update={
                "down": tuple(widths[f"down_sampling.{3 * i + 2}"] for i in range(len(self.down))),
                "blocks": blocks,
                "up": tuple(widths[f"up_sampling.{3 * i + 1}"] for i in range(len(self.up))),
            }
        )

    @classmethod
    def from_config(
        cls, config: InceptionConfig, *, in_channels: int, out_channels: int, crop_size: ImageSize
    ) -> InceptionArchitecture:
        """Returns the architecture of an unpruned inception generator; `crop_size` has no effect."""
        base = config.base_channels
        block = unpruned(4 * base, config)
        return cls(
            in_channels=in_channels,
            out_channels=out_channels,
            down=(base, 2 * base, 4 * base),
            blocks=(block,) * config.num_blocks,
            up=(2 * base, base),
            kernel_sizes=config.kernel_sizes,
            norm=config.norm,
            padding=config.padding,
            dropout=config.dropout,
            activation=config.activation,
            upsample=config.upsample,
        )
