"""The parts of a generator whose times add up to its latency, from its table of layers.

A part is a layer as the exported file computes it. The rewrites of an export change layers: depthwise branches of a
block become one, and its 1x1 residual-conv branches join them. Norms with running statistics vanish into convolutions,
except those that a SPADE generator has elsewhere: they scale and shift its features.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from itertools import groupby
from typing import Literal, NamedTuple

from components.catlib.config.student import Rewrite
from components.catlib.networks.families import Architecture
from components.catlib.networks.layers import ImageSize, Layer

UpsamplingKind = Literal["conv_transpose", "conv_resize", "conv_subpixel"]
Kind = Literal["conv", UpsamplingKind, "conv_in", "conv_depthwise", "conv_out", "last", "norm", "scaling", "modulation"]
"""What a part is: a convolution between blocks, one that doubles the size, the first, the depthwise or the last
convolution of a branch, the convolution that makes the image, a norm that computes statistics, one with running
statistics that no convolution absorbs, or a norm modulated by label maps."""

BLOCK, MULTIPLE = 8, 4
"""From a block of channels on, the rewrite `padded_channels` makes multiples of this; see `exporting/rewriting.py`."""


class Part(NamedTuple):
    """A layer that takes time.

    Attributes:
        kind: What it is.
        kernel_size: Side of its kernel in pixels; 1 for norms.
        input_size: Height and width read, in pixels.
        output_size: Height and width made, in pixels.
        in_channels: Channels read.
        out_channels: Channels made; of a depthwise convolution or a norm as many.
    """

    kind: Kind
    kernel_size: int
    input_size: ImageSize
    output_size: ImageSize
    in_channels: int
    out_channels: int

    def __str__(self) -> str:
        """Names it for messages: "conv_in 3x3 from 64 to 8 channels at 16x16 pixels"."""
        (height, width), k = self.output_size, self.kernel_size
        return f"{self.kind} {k}x{k} from {self.in_channels} to {self.out_channels} channels at {height}x{width} pixels"


def parts(architecture: Architecture, size: ImageSize, rewrites: Collection[Rewrite]) -> list[Part]:
    """Returns the parts of a generator, in the order of the network but for merged branches.

    Args:
        architecture: The generator.
        size: Height and width in pixels of its images.
        rewrites: The rewrites that an export uses.
    """
    layers = architecture.layers(*size)
    last, padded = layers[-1], set[str]()
    if "padded_channels" in rewrites:
        padded = {layer.out_space for layer in layers[:-1] if layer.kind == "conv" and not _place(layer)[0]}
    if "merged_depthwise" in rewrites:
        pointwise = architecture.activation == "relu" and architecture.norm.track_running_stats
        layers = _merged(layers, pointwise=pointwise)
    if "padded_channels" in rewrites:
        padded |= {layer.out_space for layer in layers if _place(layer)[2] == "conv_depthwise"}
    found = []
    modulated = {_place(layer)[0] for layer in layers}
    for layer in layers:
        kind = _kind(layer, modulated, last=layer is last)
        if kind is not None:
            channels = [
                _padded(count) if space in padded else count
                for count, space in ((layer.in_channels, layer.in_space), (layer.out_channels, layer.out_space))
            ]
            found.append(Part(kind, layer.kernel_size, layer.input_size, layer.output_size, *channels))
    return found


def _padded(count: int) -> int:
    """Returns the channels that the rewrite `padded_channels` makes of some."""
    return count + -count % MULTIPLE if count > BLOCK else count


def traits(architecture: Architecture) -> dict[str, str]:
    """Returns what, beside channels and sizes, decides how long an architecture's layers take."""
    norm = "folded" if architecture.norm.track_running_stats else architecture.norm.kind
    found = {"family": architecture.family, "norm": norm, "activation": architecture.activation}
    if (padding := getattr(architecture, "padding", None)) is not None:
        found["padding"] = padding
    if (tracks := getattr(architecture, "spade_norm_tracks", None)) is not None:
        found["spade_norm"] = "folded" if tracks else "instance"
    if architecture.fixed_size is not None:
        found["image_size"] = "x".join(map(str, architecture.fixed_size))
    return found


def _kind(layer: Layer, modulated: Collection[str], *, last: bool) -> Kind | None:
    """Returns a layer's kind; None for a norm that the exported file does not have.

    `modulated` are the paths of what has branches: a SPADE norm without branches modulates nothing.
    """
    role = _place(layer)[2]
    if layer.kind == "norm":
        owner, _, name = layer.identity.rpartition(".")
        if name == "param_free_norm" and owner in modulated:
            return "modulation"
        if not layer.tracks_running_stats:
            return "norm"
        return "scaling" if name == "param_free_norm" or owner.endswith(".shortcut") else None
    if role == "conv_in" or role == "conv_depthwise" or role == "conv_out":
        return role
    return "last" if last else layer.kind


def _merged(layers: Iterable[Layer], *, pointwise: bool) -> list[Layer]:
    """Returns layers with the depthwise branches, and on request 1x1 residual-conv ones, of every block merged."""
    merged: list[Layer] = []
    for block, group in groupby(layers, key=lambda layer: _place(layer)[0]):
        found = list(group)
        merged += _merged_block(found, pointwise=pointwise) if block else found
    return merged


def _place(layer: Layer) -> tuple[str, str, str]:
    """Returns block, branch and role of a layer in a branch: "features.0", "res_3x3", "conv_in"; "" for others."""
    path, _, role = layer.identity.rpartition(".")
    block, _, branch = path.rpartition(".")
    return (block, branch, role) if branch.startswith(("res_", "dw_")) else ("", "", "")


def _merged_block(layers: list[Layer], *, pointwise: bool) -> list[Layer]:
    """Merges the depthwise branches of one block; its convolutions read and make the channels of all of them."""
    joining = ("dw_", "res_1x1") if pointwise else ("dw_",)
    joined: dict[str, list[Layer]] = {}
    for layer in layers:
        _, branch, role = _place(layer)
        if branch.startswith(joining):
            joined.setdefault(role, []).append(layer)
    if "conv_depthwise" not in joined:
        return layers
    hidden = sum(layer.out_channels for layer in joined["conv_in"])
    space = joined["conv_depthwise"][0].out_space
    merged = [layer for layer in layers if not _place(layer)[1].startswith(joining)]
    for role, group in joined.items():
        widest = max(group, key=lambda layer: layer.kernel_size)
        read = {} if role == "conv_in" else {"in_channels": hidden, "in_space": space}
        made = {} if role == "conv_out" else {"out_channels": hidden, "out_space": space}
        merged.append(widest._replace(**read, **made))
    return merged
