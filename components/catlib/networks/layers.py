"""The table of a generator's layers: channel counts, branches, spaces, as plain data.

A teacher and a student are the same class with other channel counts. An architecture knows every layer of the network
that is built from it, can be written as JSON, and imports nothing heavy. So MACs and parameters are arithmetic, and
pruning needs neither a network nor a forward pass (method section 5).

A block of four channels with kernels 1 and 3, whose branches keep 2, 1, 0 and 3 hidden channels, reads

    BranchChannels(res=(2, 1), dw=(0, 3))

and holds three branches: `res_ops.0` (1x1, 2 channels), `res_ops.1` (3x3, 1 channel) and `dw_ops.0` (3x3, 3 channels).
A branch of 0 channels does not exist and takes no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from components.catlib.config import InceptionConfig, InceptionSpadeConfig, Section
from components.catlib.config.networks import Upsample

HiddenChannels = Annotated[int, Field(ge=0)]
ImageSize = tuple[int, int]
"""Height and width in pixels."""


# --------------------------------------------------------------------------------------------------------------- tables


LayerKind = Literal["conv", "conv_transpose", "conv_resize", "conv_subpixel", "norm"]
"""Kinds of layers. The three after "conv" double the size, as `upsampling.py` describes them."""


class Layer(NamedTuple):
    """A convolution or norm of a network: all that MACs, parameters and the cutting of weights need.

    A *space* is a set of channels. It is named after the norm (or the end of the network) that decides which channels
    survive: all layers that read the features of an inception generator have `in_space` "down_sampling.8". `identity`
    names the layer whichever branches exist: when the 1x1 branch vanishes, the 3x3 branch moves from `res_ops.1` to
    `res_ops.0` (its `name`), but stays `res_3x3`.

    Attributes:
        name: Module path, the prefix of its state-dict keys ("features.0.res_ops.1.1.0").
        identity: Name shared by a teacher and every student cut from it ("features.0.res_3x3.conv_in").
        kind: Kind of layer; a norm has `in_channels == out_channels`, kernel size and groups 1.
        in_channels: Number of channels read.
        out_channels: Number of channels made.
        in_space: Space of the channels read.
        out_space: Space of the channels made.
        kernel_size: Side of the square kernel in pixels.
        groups: Number of groups, as in torch's convolutions.
        affine: Convolution: has a bias. Norm: has scale and bias.
        input_size: Height and width read, in pixels, without padding.
        output_size: Height and width made, in pixels.
        tracks_running_stats: Norm: keeps running statistics.
    """

    name: str
    identity: str
    kind: LayerKind
    in_channels: int
    out_channels: int
    in_space: str
    out_space: str
    kernel_size: int
    groups: int
    affine: bool
    input_size: ImageSize
    output_size: ImageSize
    tracks_running_stats: bool


UPSAMPLING_KINDS: dict[Upsample, LayerKind] = {
    "transposed": "conv_transpose",
    "resize": "conv_resize",
    "subpixel": "conv_subpixel",
}


class PrunableNorm(NamedTuple):
    """A norm whose scales decide which of its channels survive.

    Attributes:
        name: Module path of the norm; its scales are the state-dict entry `<name>.weight`.
        group: What it normalises, for the report: "first", "down", "feature", "up", "fc", "branch", "spade_branch".
        channels: Number of scales.
        floor: The setting of a recipe's prune section that limits its channels from below; None for a branch, which may
            vanish.
        capped: Whether the prune section's max_first_channels bounds it.
        unit: Number of its channels that one channel of those settings stands for.
        multiple: The number of its channels is always a multiple of this.
    """

    name: str
    group: str
    channels: int
    floor: Literal["min_channels", "min_feature_channels"] | None = None
    capped: bool = False
    unit: int = 1
    multiple: int = 1


class Space(NamedTuple):
    """A set of channels: its name and the number of channels."""

    name: str
    channels: int


class Branch(NamedTuple):
    """A branch that exists.

    Attributes:
        kind: Residual-conv or depthwise.
        path: Module path of the branch within the network ("features.0.res_ops.1").
        identity: Name that is the same whichever branches exist ("features.0.res_3x3").
        kernel_size: Side of its kernel in pixels.
        hidden_channels: Number of hidden channels, at least 1.
    """

    kind: Literal["res", "dw"]
    path: str
    identity: str
    kernel_size: int
    hidden_channels: int


class BranchPaths(NamedTuple):
    """Module paths of a branch's layers, relative to the branch; a residual-conv branch has no depthwise part."""

    conv_in: str
    norm_in: str
    conv_depthwise: str
    norm_depthwise: str
    conv_out: str


def modulation(space: str) -> str:
    """Returns the name of the 2·C channels (scales γ, then shifts β) with which a SPADE norm modulates C channels."""
    return f"{space} (scale, shift)"


class LayerTable:
    """Collects layers in the order of the network."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def conv(
        self,
        name: str,
        source: Space,
        target: Space,
        size: ImageSize,
        *,
        kernel_size: int,
        bias: bool,
        identity: str | None = None,
        stride: int = 1,
        depthwise: bool = False,
    ) -> ImageSize:
        """Adds a convolution that keeps the size (padded) or halves it, rounding up; returns the size made."""
        output_size = (-(-size[0] // stride), -(-size[1] // stride))
        groups = source.channels if depthwise else 1
        self.layers.append(
            Layer(name, identity or name, "conv", source.channels, target.channels, source.name, target.name,
                  kernel_size, groups, bias, size, output_size, False)
        )  # fmt: skip
        return output_size

    def upsampling(
        self, name: str, source: Space, target: Space, size: ImageSize, *, upsample: Upsample = "transposed", bias: bool
    ) -> ImageSize:
        """Adds a 3x3 convolution that doubles the size; returns the size made."""
        output_size = (2 * size[0], 2 * size[1])
        self.layers.append(
            Layer(name, name, UPSAMPLING_KINDS[upsample], source.channels, target.channels, source.name, target.name,
                  3, 1, bias, size, output_size, False)
        )  # fmt: skip
        return output_size

    def norm(
        self, name: str, space: Space, size: ImageSize, *, affine: bool, tracks: bool, identity: str | None = None
    ) -> None:
        """Adds a normalisation layer."""
        self.layers.append(
            Layer(name, identity or name, "norm", space.channels, space.channels, space.name, space.name,
                  1, 1, affine, size, size, tracks)
        )  # fmt: skip

    def branch(
        self,
        branch: Branch,
        paths: BranchPaths,
        source: Space,
        target: Space,
        size: ImageSize,
        *,
        bias: bool,
        affine: bool,
        affine_depthwise: bool,
        tracks: bool,
    ) -> None:
        """Adds the layers of a branch: two k x k convolutions, or a depthwise one between two of 1x1."""
        path, name, k = branch.path, branch.identity, branch.kernel_size
        hidden = Space(path + paths.norm_in, branch.hidden_channels)
        outer = k if branch.kind == "res" else 1
        conv: dict[str, Any] = {"size": size, "bias": bias}
        norm: dict[str, Any] = {"space": hidden, "size": size, "tracks": tracks}
        self.conv(path + paths.conv_in, source, hidden, kernel_size=outer, identity=f"{name}.conv_in", **conv)
        self.norm(hidden.name, affine=affine, identity=f"{name}.norm_in", **norm)
        if branch.kind == "dw":
            depthwise = f"{name}.conv_depthwise"
            self.conv(
                path + paths.conv_depthwise, hidden, hidden, kernel_size=k, depthwise=True, identity=depthwise, **conv
            )
            self.norm(path + paths.norm_depthwise, affine=affine_depthwise, identity=f"{name}.norm_depthwise", **norm)
        self.conv(path + paths.conv_out, hidden, target, kernel_size=outer, identity=f"{name}.conv_out", **conv)


# ------------------------------------------------------------------------------------------------------------- branches


class BranchChannels(Section):
    """Hidden channels of the two kinds of branches, one number per kernel size; 0 means that no such branch exists."""

    res: tuple[HiddenChannels, ...] = Field(description="residual-conv branches")
    dw: tuple[HiddenChannels, ...] = Field(description="depthwise branches")

    @property
    def vanished(self) -> bool:
        """Whether no branch is left."""
        return not any(self.res) and not any(self.dw)


def existing_branches(channels: BranchChannels, kernel_sizes: tuple[int, ...], prefix: str) -> Iterator[Branch]:
    """Yields the branches that exist below a module path, residual-conv branches first, numbered as in state dicts."""
    kinds: tuple[tuple[Literal["res", "dw"], tuple[int, ...]], ...] = (("res", channels.res), ("dw", channels.dw))
    for kind, widths in kinds:
        number = 0
        for k, hidden in zip(kernel_sizes, widths, strict=True):
            if hidden:
                yield Branch(kind, f"{prefix}.{kind}_ops.{number}", f"{prefix}.{kind}_{k}x{k}", k, hidden)
                number += 1


def unpruned(channels: int, config: InceptionConfig | InceptionSpadeConfig) -> BranchChannels:
    """Returns the branches of a block with this number of channels: every kernel size, both kinds, equally wide."""
    hidden_channels = (channels // config.channels_reduction_factor,) * len(config.kernel_sizes)
    return BranchChannels(res=hidden_channels, dw=hidden_channels)


def resized_branches(
    channels: BranchChannels,
    kernel_sizes: tuple[int, ...],
    prefix: str,
    paths: Mapping[str, BranchPaths],
    widths: Mapping[str, int],
) -> BranchChannels:
    """Returns the branches with new widths, by the name of their first norm; missing branches stay missing."""
    kept: dict[tuple[str, int], int] = {
        (branch.kind, branch.kernel_size): widths[branch.path + paths[branch.kind].norm_in]
        for branch in existing_branches(channels, kernel_sizes, prefix)
    }
    return BranchChannels(
        res=tuple(kept.get(("res", k), 0) for k in kernel_sizes),
        dw=tuple(kept.get(("dw", k), 0) for k in kernel_sizes),
    )


def check_kernel_sizes(kernel_sizes: tuple[int, ...]) -> None:
    """Refuses kernel sizes that are not distinct odd numbers; raises ValueError."""
    if not kernel_sizes or len(set(kernel_sizes)) < len(kernel_sizes) or any(k % 2 == 0 for k in kernel_sizes):
        raise ValueError("kernel_sizes must be distinct odd numbers, at least one")


def check_branches(channels: BranchChannels, kernel_sizes: tuple[int, ...], where: str) -> None:
    """Refuses branches that do not have one width per kernel size; raises ValueError."""
    if len(channels.res) != len(kernel_sizes) or len(channels.dw) != len(kernel_sizes):
        raise ValueError(f"{where}: res and dw need one number per kernel size {kernel_sizes}")
