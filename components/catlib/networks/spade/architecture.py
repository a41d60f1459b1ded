"""The architecture of the inception SPADE generator: which layers it holds, as a table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from components.catlib.config import Count, NormConfig, Section
from components.catlib.config.networks import InceptionSpadeConfig
from components.catlib.errors import UserError
from components.catlib.networks.architecture import InputKind, example_labels
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
    modulation,
    resized_branches,
    unpruned,
)

SPADE_BLOCK_PATHS = {
    "res": BranchPaths(".0.conv", ".0.norm", "", "", ".1.conv"),
    "dw": BranchPaths(".0.conv", ".0.norm", ".1.conv", ".1.norm", ".2.conv"),
}
SPADE_NORM_PATHS = {
    "res": BranchPaths(".0.conv", ".0.norm", "", "", ".1"),
    "dw": BranchPaths(".0.conv", ".0.norm", ".1.conv", ".1.norm", ".2"),
}

UPSAMPLING_STEPS = {"normal": 5, "more": 6, "most": 7}
"""How often a SPADE generator doubles the size of its latent."""


class SpadeBlock(Section):
    """One SPADE inception block; without branches it is its shortcut alone, and holds no SPADE norm either."""

    branches: BranchChannels = Field(description="hidden channels of the block's branches")
    spade: BranchChannels = Field(description="hidden channels of the branches of its SPADE norm")


class InceptionSpadeArchitecture(Section):
    """The inception SPADE generator of GauGAN (method section 1.2).

    The fields describe these norms:

    - `norm`: the norms inside branches, and the norm before a learned shortcut. The latter is always affine. The norm
      after a depthwise convolution of a block never is.
    - `spade_norm`: the parameter-free norm that is modulated. It keeps running statistics unless it is instance norm.
    - No field describes the layer `fc_norm`: it is an affine sync-batch norm with running statistics.

    Differs: a block without branches returns its shortcut. The published layout keeps the SPADE norm of such a block,
    though nothing reads it; here it does not exist, neither as layers nor as MACs or parameters.
    """

    input_kind: ClassVar[InputKind] = "labels"

    family: Literal["inception_spade"] = "inception_spade"
    semantic_channels: Count = Field(description="channels of the semantic tensor S")
    out_channels: Count = Field(description="channels of the target image")
    base_channels: Count = Field(description="nf: head_0 has 16 nf channels")
    blocks: dict[str, SpadeBlock] = Field(description="head_0, G_middle_0, G_middle_1, up_0, ... in this order")
    kernel_sizes: tuple[Count, ...] = Field(description="odd kernel sizes K of the branches")
    num_upsampling_layers: Literal["normal", "more", "most"] = Field(description="x32, x64 or x128")
    crop_width: Count = Field(description="width of the image in pixels")
    aspect_ratio: float = Field(gt=0, description="width / height of the image")
    norm: NormConfig = Field(description="norms inside branches, and before learned shortcuts")
    spade_norm: Literal["batch", "syncbatch", "instance"] = Field(description="the parameter-free norm")
    spectral: bool = Field(description="spectral norm on convolutions")
    dropout: float = Field(ge=0, lt=1, description="dropout rate inside branches")
    activation: Literal["relu", "leaky_relu"] = Field(description="inside the blocks; leaky_relu has slope 0.01")

    @model_validator(mode="after")
    def _check(self) -> InceptionSpadeArchitecture:
        check_kernel_sizes(self.kernel_sizes)
        expected = list(self.block_widths)
        if list(self.blocks) != expected:
            raise ValueError(f"blocks must be {', '.join(expected)}, in this order")
        for name, block in self.blocks.items():
            check_branches(block.branches, self.kernel_sizes, f"blocks.{name}.branches")
            check_branches(block.spade, self.kernel_sizes, f"blocks.{name}.spade")
        if self.num_upsampling_layers == "most" and self.base_channels % 2:
            raise ValueError(
                "base_channels must be even for num_upsampling_layers 'most', whose last block has half of it"
            )
        if min(self.latent_size) < 1:
            raise ValueError(f"an image {self.crop_width} wide is too small for {2**self.num_upsamplings}x upsampling")
        return self

    @property
    def in_channels(self) -> int:
        """Channels of the generator's input, the semantic tensor."""
        return self.semantic_channels

    @property
    def size_step(self) -> int:
        """Height and width are multiples of this many pixels, the size to which one pixel of the latent grows."""
        return 2**self.num_upsamplings

    @property
    def smallest_size(self) -> int:
        """The shorter side of its images in pixels, because they have one size."""
        return min(self.image_size)

    @property
    def fixed_size(self) -> ImageSize:
        """Height and width of its images in pixels."""
        return self.image_size

    @property
    def feature_widths(self) -> dict[str, int]:
        """Channels of the distillation layers, which are three of the blocks."""
        return {name: self.block_widths[name][1] for name in ("head_0", "G_middle_1", "up_1")}

    def check_size(self, height: int, width: int, *, where: str) -> None:
        """Refuses images of any other size than `image_size`; raises UserError."""
        if (height, width) != self.image_size:
            raise UserError(
                f"{where} has images of {height}x{width} pixels (height x width), but this SPADE generator makes "
                f"images of {self.image_size[0]}x{self.image_size[1]}."
            )

    def example_input(self, count: int, size: ImageSize, *, seed: int = 0) -> np.ndarray:
        """Returns one-hot planes of random labels, float32 [count, semantic_channels, height, width]."""
        return example_labels(count, self.semantic_channels, size, seed=seed)

    @property
    def num_upsamplings(self) -> int:
        """How often the size is doubled between the latent and the image."""
        return UPSAMPLING_STEPS[self.num_upsampling_layers]

    @property
    def latent_size(self) -> ImageSize:
        """Height and width in pixels at which the network starts."""
        width = self.crop_width >> self.num_upsamplings
        return round(width / self.aspect_ratio), width

    @property
    def image_size(self) -> ImageSize:
        """Height and width in pixels of the generated image, whatever the size of the semantic tensor."""
        height, width = self.latent_size
        return height << self.num_upsamplings, width << self.num_upsamplings

    @property
    def block_widths(self) -> dict[str, tuple[int, int]]:
        """Channels read and made by every block."""
        return _block_widths(self.num_upsampling_layers, self.base_channels)

    @property
    def upsampled_before(self) -> frozenset[str]:
        """Blocks in front of which the size is doubled (nearest neighbour)."""
        return frozenset(
            name
            for name in self.blocks
            if name.startswith("up_")
            or name == "G_middle_0"
            or (name == "G_middle_1" and self.num_upsampling_layers != "normal")
        )

    @property
    def spade_norm_tracks(self) -> bool:
        """Whether the parameter-free norms keep running statistics."""
        return self.spade_norm != "instance"

    def layers(self, height: int, width: int) -> list[Layer]:
        """Returns every layer that exists and runs, in the order of the network.

        The arguments have no effect: it makes images of `image_size`, whatever the size of the semantic tensor.
        """
        table = LayerTable()
        size = self.latent_size
        semantics, channels = Space("source", self.semantic_channels), Space("fc_norm", 16 * self.base_channels)
        table.conv("fc", semantics, channels, size, kernel_size=3, bias=True)
        table.norm("fc_norm", channels, size, affine=True, tracks=True)
        upsampled_before = self.upsampled_before
        for name, (in_channels, out_channels) in self.block_widths.items():
            if name in upsampled_before:
                size = (2 * size[0], 2 * size[1])
            # A block that keeps its width adds to its input, so both have the same channels.
            target = channels if in_channels == out_channels else Space(name, out_channels)
            self._add_block(table, name, semantics, channels, target, size)
            channels = target
        table.conv("conv_img", channels, Space("target", self.out_channels), size, kernel_size=3, bias=True)
        return table.layers

    def _add_block(
        self, table: LayerTable, name: str, semantics: Space, source: Space, target: Space, size: ImageSize
    ) -> None:
        """Adds the layers of one block, its SPADE norm first, its shortcut last."""
        block, norm = self.blocks[name], self.norm
        learned: dict[str, bool] = {"bias": True, "affine": norm.affine, "tracks": norm.track_running_stats}
        if not block.branches.vanished:
            table.norm(f"{name}.spade.param_free_norm", source, size, affine=False, tracks=self.spade_norm_tracks)
            modulated = Space(modulation(source.name), 2 * source.channels)
            for branch in existing_branches(block.spade, self.kernel_sizes, f"{name}.spade"):
                paths = SPADE_NORM_PATHS[branch.kind]
                table.branch(branch, paths, semantics, modulated, size, affine_depthwise=norm.affine, **learned)
            for branch in existing_branches(block.branches, self.kernel_sizes, name):
                paths = SPADE_BLOCK_PATHS[branch.kind]
                table.branch(branch, paths, source, target, size, affine_depthwise=False, **learned)
        if source != target:
            table.norm(f"{name}.shortcut.0", source, size, affine=True, tracks=norm.track_running_stats)
            table.conv(f"{name}.shortcut.1.conv", source, target, size, kernel_size=1, bias=False)

    def prunable_norms(self) -> list[PrunableNorm]:
        """Returns the norms whose scales are compared with the threshold, in the order of the network.

        A block without branches has no SPADE norm, so it has nothing to prune.
        """
        # Blocks halve what fc makes, down to base_channels; up_4 halves once more and must still make whole channels.
        # A recipe's bounds count in units of base_channels: min_channels 16 keeps 256 channels of fc.
        multiple = 32 if self.num_upsampling_layers == "most" else 16
        width = 16 * self.base_channels
        norms = [PrunableNorm("fc_norm", "fc", width, floor="min_channels", capped=True, unit=16, multiple=multiple)]
        for name, block in self.blocks.items():
            if block.branches.vanished:
                continue
            for prefix, channels, paths in (
                (f"{name}.spade", block.spade, SPADE_NORM_PATHS),
                (name, block.branches, SPADE_BLOCK_PATHS),
            ):
                norms += [
                    PrunableNorm(
                        branch.path + paths[branch.kind].norm_in,
                        "branch" if prefix == name else "spade_branch",
                        branch.hidden_channels,
                    )
                    for branch in existing_branches(channels, self.kernel_sizes, prefix)
                ]
        return norms

    def resized(self, widths: Mapping[str, int]) -> InceptionSpadeArchitecture:
        """Returns this architecture with other channel counts.

        Args:
            widths: Number of channels by the name of every prunable norm; 0 removes a branch. The channels of every
                block follow from `fc_norm` by halving, so that number must be a multiple of 16.
        """
        base_channels, rest = divmod(widths["fc_norm"], 16)
        assert not rest, f"fc_norm has {widths['fc_norm']} channels, not a multiple of 16"
        blocks = dict(self.blocks)
        for name, block in self.blocks.items():
            if not block.branches.vanished:
                blocks[name] = SpadeBlock(
                    branches=resized_branches(block.branches, self.kernel_sizes, name, SPADE_BLOCK_PATHS, widths),
                    spade=resized_branches(block.spade, self.kernel_sizes, f"{name}.spade", SPADE_NORM_PATHS, widths),
                )
        return self.model_copy(update={"base_channels": base_channels, "blocks": blocks})

    @classmethod
    def from_config(
        cls, config: InceptionSpadeConfig, *, in_channels: int, out_channels: int, crop_size: ImageSize
    ) -> InceptionSpadeArchitecture:
        """Returns the architecture of an unpruned SPADE generator.

        Args:
            config: The generator's settings.
            in_channels: Channels of the semantic tensor.
            out_channels: Channels of the target image.
            crop_size: Height and width of the images that it makes, in pixels.

        Raises:
            UserError: The images do not fit its up-sampling.
        """
        height, width = crop_size
        multiple = 2 ** UPSAMPLING_STEPS[config.num_upsampling_layers]
        if height % multiple or width % multiple:
            raise UserError(
                f"dataset.crop_size {height}x{width} does not fit generator.num_upsampling_layers "
                f"{config.num_upsampling_layers!r}: height and width must be multiples of {multiple}."
            )
        if config.num_upsampling_layers == "most" and config.base_channels % 2:
            raise UserError(
                f"generator.base_channels is {config.base_channels}, but num_upsampling_layers 'most' needs an even "
                "number."
            )
        spade = unpruned(config.spade_hidden_channels, config)
        widths = _block_widths(config.num_upsampling_layers, config.base_channels)
        blocks = {
            name: SpadeBlock(branches=unpruned(min(width), config), spade=spade) for name, width in widths.items()
        }
        return cls(
            semantic_channels=in_channels,
            out_channels=out_channels,
            base_channels=config.base_channels,
            blocks=blocks,
            kernel_sizes=config.kernel_sizes,
            num_upsampling_layers=config.num_upsampling_layers,
            crop_width=width,
            aspect_ratio=width / height,
            norm=config.norm,
            spade_norm=config.spade_norm,
            spectral=config.spectral,
            dropout=config.dropout,
            activation=config.activation,
        )


def _block_widths(num_upsampling_layers: str, base_channels: int) -> dict[str, tuple[int, int]]:
    """Returns the channels read and made by every block, in the order of the network."""
    first = 16 * base_channels
    widths: dict[str, tuple[int, int]] = dict.fromkeys(("head_0", "G_middle_0", "G_middle_1"), (first, first))
    for i in range(5 if num_upsampling_layers == "most" else 4):
        widths[f"up_{i}"] = (first >> i, first >> (i + 1))
    return widths
