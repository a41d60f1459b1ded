"""What a generator is made of, as numbers: channel counts, options, and the table of its layers.

A teacher and a student are the same class with other channel counts. An architecture is JSON, knows every layer that
the network built from it will hold, and imports nothing heavy, so that MACs and parameters are arithmetic and pruning
needs neither a network nor a forward pass (method section 5).

A block of four channels with kernels 1 and 3, whose branches keep 2, 1, 0 and 3 hidden channels, reads

    BranchChannels(res=(2, 1), dw=(0, 3))

and holds three branches: `res_ops.0` (1x1, 2 channels), `res_ops.1` (3x3, 1 channel) and `dw_ops.0` (3x3, 3 channels).
A branch of 0 channels does not exist and takes no number.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field, TypeAdapter, ValidationError, model_validator

from components.catlib.config import Count, GeneratorConfig, NormConfig, Section
from components.catlib.errors import UserError

HiddenChannels = Annotated[int, Field(ge=0)]
Size = tuple[int, int]
"""Height and width in pixels."""


# --------------------------------------------------------------------------------------------------------------- tables


class Layer(NamedTuple):
    """A convolution or norm of a network: all that MACs, parameters and the cutting of weights need.

    Two attributes tell channels apart. A *space* names the norm (or the end of the network) that decides which channels
    there are: all layers that read the features of an inception generator have `in_space` "down_sampling.8". `identity`
    names the layer independently of which branches exist: when the 1x1 branch vanishes the 3x3 branch moves from
    `res_ops.1` to `res_ops.0` (its `name`), but stays `res_3x3`.

    Attributes:
        name: Module path, the prefix of its state-dict keys ("features.0.res_ops.1.1.0").
        identity: The same in a teacher and in every student cut from it ("features.0.res_3x3.conv_in").
        kind: A norm has `in_channels == out_channels`, kernel size and groups 1.
        in_channels: Channels read.
        out_channels: Channels made.
        in_space: Which channels are read.
        out_space: Which channels are made.
        kernel_size: Side of the square kernel in pixels.
        groups: As in torch's convolutions.
        affine: Convolution: has a bias. Norm: has scale and bias.
        input_size: Height and width read, in pixels, without padding.
        output_size: Height and width made, in pixels.
        tracks_running_stats: Norm: keeps running statistics.
    """

    name: str
    identity: str
    kind: Literal["conv", "conv_transpose", "norm"]
    in_channels: int
    out_channels: int
    in_space: str
    out_space: str
    kernel_size: int
    groups: int
    affine: bool
    input_size: Size
    output_size: Size
    tracks_running_stats: bool


class PrunableNorm(NamedTuple):
    """A norm whose scales decide which of its channels survive.

    Attributes:
        name: Module path of the norm; its scales are the state-dict entry `<name>.weight`.
        group: The first layer, the middle down layer, the one that sets the feature width, up layers and SPADE's fc
            keep a minimum of channels; a branch of a block, or of a block's SPADE norm, may vanish.
        channels: How many scales.
    """

    name: str
    group: Literal["first", "down", "feature", "up", "fc", "branch", "spade_branch"]
    channels: int


class Space(NamedTuple):
    """A set of channels: what decides it, and how many there are."""

    name: str
    channels: int


class Branch(NamedTuple):
    """A branch that exists.

    Attributes:
        kind: Residual-conv or depthwise.
        path: Module path of the branch within the network ("features.0.res_ops.1").
        identity: The same whichever branches exist ("features.0.res_3x3").
        kernel_size: Side of its kernel in pixels.
        hidden_channels: Its width, at least 1.
    """

    kind: Literal["res", "dw"]
    path: str
    identity: str
    kernel_size: int
    hidden_channels: int


class BranchPaths(NamedTuple):
    """Where the layers of a branch sit below it; a residual-conv branch has no depthwise part."""

    conv_in: str
    norm_in: str
    conv_depthwise: str
    norm_depthwise: str
    conv_out: str


def modulation(space: str) -> str:
    """Returns the name of the 2·C channels, scales γ then shifts β, that a SPADE norm lays over C channels."""
    return f"{space} (scale, shift)"


class _Table:
    """Collects layers in the order of the network."""

    def __init__(self) -> None:
        self.layers: list[Layer] = []

    def conv(
        self,
        name: str,
        source: Space,
        target: Space,
        size: Size,
        *,
        kernel_size: int,
        bias: bool,
        identity: str | None = None,
        stride: int = 1,
        depthwise: bool = False,
    ) -> Size:
        """Adds a convolution that keeps the size (padded) or halves it, rounding up; returns the size made."""
        output_size = (-(-size[0] // stride), -(-size[1] // stride))
        groups = source.channels if depthwise else 1
        self.layers.append(
            Layer(name, identity or name, "conv", source.channels, target.channels, source.name, target.name,
                  kernel_size, groups, bias, size, output_size, False)
        )  # fmt: skip
        return output_size

    def conv_transpose(self, name: str, source: Space, target: Space, size: Size, *, bias: bool) -> Size:
        """Adds a transposed 3x3 convolution that doubles the size; returns the size made."""
        output_size = (2 * size[0], 2 * size[1])
        self.layers.append(
            Layer(name, name, "conv_transpose", source.channels, target.channels, source.name, target.name,
                  3, 1, bias, size, output_size, False)
        )  # fmt: skip
        return output_size

    def norm(
        self, name: str, space: Space, size: Size, *, affine: bool, tracks: bool, identity: str | None = None
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
        size: Size,
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
    """Hidden channels of the six kinds of branches, one number per kernel size; 0: the branch does not exist."""

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


def _unpruned(hidden_channels: tuple[int, ...]) -> BranchChannels:
    return BranchChannels(res=hidden_channels, dw=hidden_channels)


def _resized_branches(
    channels: BranchChannels,
    kernel_sizes: tuple[int, ...],
    prefix: str,
    paths: Mapping[str, BranchPaths],
    widths: Mapping[str, int],
) -> BranchChannels:
    """Returns the branches with the widths given per name of their first norm; what does not exist stays so."""
    kept: dict[tuple[str, int], int] = {
        (branch.kind, branch.kernel_size): widths[branch.path + paths[branch.kind].norm_in]
        for branch in existing_branches(channels, kernel_sizes, prefix)
    }
    return BranchChannels(
        res=tuple(kept.get(("res", k), 0) for k in kernel_sizes),
        dw=tuple(kept.get(("dw", k), 0) for k in kernel_sizes),
    )


def _check_kernel_sizes(kernel_sizes: tuple[int, ...]) -> None:
    if not kernel_sizes or len(set(kernel_sizes)) < len(kernel_sizes) or any(k % 2 == 0 for k in kernel_sizes):
        raise ValueError("kernel_sizes must be distinct odd numbers, at least one")


def _check_branches(channels: BranchChannels, kernel_sizes: tuple[int, ...], where: str) -> None:
    if len(channels.res) != len(kernel_sizes) or len(channels.dw) != len(kernel_sizes):
        raise ValueError(f"{where}: res and dw need one number per kernel size {kernel_sizes}")


# ----------------------------------------------------------------------------------------------- inception architecture

INCEPTION_PATHS = {
    "res": BranchPaths(".1.0", ".1.1", "", "", ".4"),
    "dw": BranchPaths(".0.0", ".0.1", ".2.0", ".2.1", ".4"),
}


class InceptionArchitecture(Section):
    """The inception residual generator of pix2pix and CycleGAN (method section 1.1).

    Convolutions have a bias exactly when the norm is instance norm; the last one always has one.
    """

    family: Literal["inception"] = "inception"
    in_channels: Count = Field(description="channels of the source image")
    out_channels: Count = Field(description="channels of the target image")
    down: tuple[Count, Count, Count] = Field(description="channels of the down layers; the last: feature width")
    blocks: tuple[BranchChannels, ...] = Field(description="hidden channels of every residual block")
    up: tuple[Count, Count] = Field(description="channels of the up layers")
    kernel_sizes: tuple[Count, ...] = Field(description="odd kernel sizes K of the branches")
    norm: NormConfig = Field(description="every norm of the network")
    padding: Literal["reflect", "replicate", "zero"] = Field(description="padding inside the blocks")
    dropout: float = Field(ge=0, lt=1, description="dropout rate inside branches")
    activation: Literal["relu", "leaky_relu"] = Field(description="inside the blocks; leaky_relu has slope 0.01")

    @model_validator(mode="after")
    def _check(self) -> InceptionArchitecture:
        _check_kernel_sizes(self.kernel_sizes)
        for i, block in enumerate(self.blocks):
            _check_branches(block, self.kernel_sizes, f"blocks.{i}")
        return self

    @property
    def convs_have_bias(self) -> bool:
        """Whether convolutions other than the last have a bias."""
        return self.norm.kind == "instance"

    def layers(self, height: int, width: int) -> list[Layer]:
        """Returns every layer that exists, in the order of the network, for an input of this size in pixels."""
        table = _Table()
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
            size = table.conv_transpose(f"up_sampling.{3 * i}", channels, target, size, bias=bias)
            table.norm(target.name, target, size, **norm)
            channels = target
        table.conv("up_sampling.7", channels, Space("target", self.out_channels), size, kernel_size=7, bias=True)
        return table.layers

    def prunable_norms(self) -> list[PrunableNorm]:
        """Returns the norms whose scales are thresholded, in the order of the network."""
        groups: tuple[Literal["first", "down", "feature"], ...] = ("first", "down", "feature")
        down = [
            PrunableNorm(f"down_sampling.{3 * i + 2}", group, count)
            for i, (group, count) in enumerate(zip(groups, self.down, strict=True))
        ]
        branches = [
            PrunableNorm(branch.path + INCEPTION_PATHS[branch.kind].norm_in, "branch", branch.hidden_channels)
            for i, block in enumerate(self.blocks)
            for branch in existing_branches(block, self.kernel_sizes, f"features.{i}")
        ]
        up = [PrunableNorm(f"up_sampling.{3 * i + 1}", "up", count) for i, count in enumerate(self.up)]
        return down + branches + up

    def resized(self, widths: Mapping[str, int]) -> InceptionArchitecture:
        """Returns this architecture with other channel counts.

        Args:
            widths: Channels per name of every prunable norm; 0 removes a branch.
        """
        blocks = tuple(
            _resized_branches(block, self.kernel_sizes, f"features.{i}", INCEPTION_PATHS, widths)
            for i, block in enumerate(self.blocks)
        )
        return self.model_copy(
            update={
                "down": tuple(widths[f"down_sampling.{3 * i + 2}"] for i in range(len(self.down))),
                "blocks": blocks,
                "up": tuple(widths[f"up_sampling.{3 * i + 1}"] for i in range(len(self.up))),
            }
        )


# --------------------------------------------------------------------------------------------------- SPADE architecture

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

    Which norm follows which field: `norm` describes the norms inside branches, and the one before a learned shortcut
    (which is always affine, as the norm after a depthwise convolution of a block never is); `spade_norm` is the
    parameter-free norm that is modulated, with running statistics unless it is instance norm; `fc_norm` is a sync-batch
    norm, affine, with running statistics, whatever the fields say.

    Differs: a block without branches returns its shortcut, so its SPADE norm, which the published layout keeps though
    nothing reads it, does not exist here: neither as layers nor as MACs or parameters.
    """

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
        _check_kernel_sizes(self.kernel_sizes)
        expected = list(self.block_widths)
        if list(self.blocks) != expected:
            raise ValueError(f"blocks must be {', '.join(expected)}, in this order")
        for name, block in self.blocks.items():
            _check_branches(block.branches, self.kernel_sizes, f"blocks.{name}.branches")
            _check_branches(block.spade, self.kernel_sizes, f"blocks.{name}.spade")
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
    def num_upsamplings(self) -> int:
        """How often the size is doubled between the latent and the image."""
        return UPSAMPLING_STEPS[self.num_upsampling_layers]

    @property
    def latent_size(self) -> Size:
        """Height and width at which the network starts."""
        width = self.crop_width >> self.num_upsamplings
        return round(width / self.aspect_ratio), width

    @property
    def image_size(self) -> Size:
        """Height and width of the generated image, whatever the size of the semantic tensor."""
        height, width = self.latent_size
        return height << self.num_upsamplings, width << self.num_upsamplings

    @property
    def block_widths(self) -> dict[str, tuple[int, int]]:
        """Channels read and made by every block."""
        return _spade_block_widths(self.num_upsampling_layers, self.base_channels)

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

        The arguments change nothing: it makes images of `image_size`, whatever the size of the semantic tensor.
        """
        table = _Table()
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

    def _add_block(self, table: _Table, name: str, semantics: Space, source: Space, target: Space, size: Size) -> None:
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
        """Returns the norms whose scales are thresholded, in the order of the network.

        A block without branches has no SPADE norm, hence nothing to prune.
        """
        norms = [PrunableNorm("fc_norm", "fc", 16 * self.base_channels)]
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
            widths: Channels per name of every prunable norm; 0 removes a branch. `fc_norm` sets every block's channels
                by halving, so it must be a multiple of 16.
        """
        base_channels, rest = divmod(widths["fc_norm"], 16)
        assert not rest, f"fc_norm has {widths['fc_norm']} channels, not a multiple of 16"
        blocks = dict(self.blocks)
        for name, block in self.blocks.items():
            if not block.branches.vanished:
                blocks[name] = SpadeBlock(
                    branches=_resized_branches(block.branches, self.kernel_sizes, name, SPADE_BLOCK_PATHS, widths),
                    spade=_resized_branches(block.spade, self.kernel_sizes, f"{name}.spade", SPADE_NORM_PATHS, widths),
                )
        return self.model_copy(update={"base_channels": base_channels, "blocks": blocks})


def _spade_block_widths(num_upsampling_layers: str, base_channels: int) -> dict[str, tuple[int, int]]:
    """Returns the channels read and made by every block, in the order of the network."""
    first = 16 * base_channels
    widths: dict[str, tuple[int, int]] = dict.fromkeys(("head_0", "G_middle_0", "G_middle_1"), (first, first))
    for i in range(5 if num_upsampling_layers == "most" else 4):
        widths[f"up_{i}"] = (first >> i, first >> (i + 1))
    return widths


# --------------------------------------------------------------------------------------------------- making and reading

Architecture = InceptionArchitecture | InceptionSpadeArchitecture
"""Any generator; `family` tells which."""

_ADAPTER: TypeAdapter[Architecture] = TypeAdapter(Annotated[Architecture, Field(discriminator="family")])


def parse_architecture(value: Any) -> Architecture:
    """Reads an architecture from JSON values, as `architecture.model_dump(mode="json")` makes them.

    Raises:
        UserError: Not an architecture; the first wrong field is named.
    """
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError as error:
        complaint = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in complaint["loc"])
        message = complaint["msg"].removeprefix("Value error, ")
        raise UserError(f"Not a generator architecture: {where + ': ' if where else ''}{message}.") from error


def architecture_from_config(
    config: GeneratorConfig, *, in_channels: int, out_channels: int, crop_size: Size
) -> Architecture:
    """Returns the architecture of an unpruned generator.

    Args:
        config: The recipe's generator section.
        in_channels: Channels of the source image, or of the semantic tensor.
        out_channels: Channels of the target image.
        crop_size: Height and width of the images in pixels.

    Raises:
        UserError: The images do not fit the generator's up-sampling.
    """
    if config.family == "inception_spade":
        return _spade_from_config(config, in_channels, out_channels, crop_size)
    base = config.base_channels
    block = _unpruned(_hidden_channels(config, 4 * base))
    return InceptionArchitecture(
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
    )


def _hidden_channels(config: GeneratorConfig, channels: int) -> tuple[int, ...]:
    """Returns the hidden channels of each kernel size in a block of so many channels."""
    widths = config.hidden_channels or (channels,) * len(config.kernel_sizes)
    return tuple(width // config.channels_reduction_factor for width in widths)


def _spade_from_config(
    config: GeneratorConfig, in_channels: int, out_channels: int, crop_size: Size
) -> InceptionSpadeArchitecture:
    height, width = crop_size
    multiple = 2 ** UPSAMPLING_STEPS[config.num_upsampling_layers]
    if height % multiple or width % multiple:
        raise UserError(
            f"dataset.crop_size {height}x{width} does not fit generator.num_upsampling_layers "
            f"{config.num_upsampling_layers!r}: height and width must be multiples of {multiple}."
        )
    if config.num_upsampling_layers == "most" and config.base_channels % 2:
        raise UserError(
            f"generator.base_channels is {config.base_channels}, but num_upsampling_layers 'most' needs an even number."
        )
    spade = _unpruned(_hidden_channels(config, config.spade_hidden_channels))
    widths = _spade_block_widths(config.num_upsampling_layers, config.base_channels)
    blocks = {
        name: SpadeBlock(branches=_unpruned(_hidden_channels(config, min(width))), spade=spade)
        for name, width in widths.items()
    }
    return InceptionSpadeArchitecture(
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
