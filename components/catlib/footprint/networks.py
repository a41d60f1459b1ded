"""How many values the networks of a training keep for the gradient, and hold for a moment, for one image.

A norm keeps what it reads, and the activation behind it keeps what it makes; this output is also what the convolution
behind that keeps. So a norm of 64 channels over 256x256 pixels stands for 2·64·256·256 = 8.4 million values. Paddings
that copy their input, modulations and poolings add to that. Sums, and convolutions whose weights are frozen, keep
nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import NamedTuple

from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.discriminator_architecture import (
    DiscriminatorArchitecture,
    MultiscaleArchitecture,
    PatchArchitecture,
    PixelArchitecture,
)
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import ImageSize, Layer
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture

PASSING_TENSORS = 3
"""Number of tensors as large as a generator's largest that exist for a moment: gradients, and branches before their
sum."""

VGG_PARAMETERS = 20_024_384
"""Weights and biases of VGG19's `features`."""

_VGG_SLICES = ((64, 64), (128, 128), (256,) * 4, (512,) * 4, (512,))
"""Channels of the convolutions that the perceptual loss uses, by size: a pooling stands before each group but the
first."""


class Activations(NamedTuple):
    """Numbers of values for one image.

    Attributes:
        kept: Kept for the gradient after a forward pass.
        passing: Held for a moment beside them, at most.
        features: Made by the distillation layers together.
    """

    kept: int
    passing: int = 0
    features: int = 0


def generator_activations(
    architecture: GeneratorArchitecture, size: ImageSize, *, recomputing: bool = False
) -> Activations:
    """Returns what a generator keeps for one image of this size in pixels.

    Args:
        architecture: The generator.
        size: Height and width in pixels.
        recomputing: Whether only the inputs of its segments are kept, so that each segment's inside comes later.
    """
    layers = architecture.layers(*size)
    segments: dict[str, list[Layer]] = {}
    for layer in layers:
        segments.setdefault(_segment(layer), []).append(layer)
    inside = {name: sum(_kept(architecture, each)) for name, each in segments.items()}
    kept = (_read(each[0]) for each in segments.values()) if recomputing else inside.values()
    passing = PASSING_TENSORS * max(layer.out_channels * _pixels(layer.output_size) for layer in layers)
    wanted = {name.removesuffix(".9") for name in architecture.feature_widths}
    return Activations(
        kept=sum(kept) + sum(_at_the_end(architecture, layers[-1])),
        passing=passing + (max(inside.values()) if recomputing else 0),
        features=sum(_made(each[-1]) for name, each in segments.items() if name in wanted),
    )


def _segment(layer: Layer) -> str:
    first, _, rest = layer.name.partition(".")
    return f"features.{rest.partition('.')[0]}" if first == "features" else first


def _kept(architecture: GeneratorArchitecture, layers: list[Layer]) -> Iterator[int]:
    """Yields the numbers of values that the layers of a segment keep."""
    for layer in layers:
        if layer.kind == "norm":
            yield 2 * _made(layer)
    match architecture:
        case InceptionArchitecture():
            for layer in layers:
                edge = layer.kernel_size // 2
                copies = layer.kernel_size == 7 or (layer.kernel_size > 1 and architecture.padding != "zero")
                if layer.kind == "conv" and layer.input_size == layer.output_size and copies:
                    height, width = layer.input_size
                    yield layer.in_channels * (height + 2 * edge) * (width + 2 * edge)
        case InceptionSpadeArchitecture():
            normalised = [layer for layer in layers if layer.name.endswith(".param_free_norm")]
            for layer in normalised:  # 1 + γ, the modulated features, and S at this size
                yield 2 * _made(layer) + architecture.semantic_channels * _pixels(layer.output_size)
            if normalised:  # the norm in the shortcut reads what the parameter-free one does
                yield -sum(_made(layer) for layer in layers if layer.name.endswith(".shortcut.0"))


def _at_the_end(architecture: GeneratorArchitecture, last: Layer) -> Iterator[int]:
    yield _made(last)  # tanh
    if isinstance(architecture, InceptionSpadeArchitecture):
        yield 2 * _read(last)  # a leaky ReLU that does not overwrite its input


def discriminator_activations(architecture: DiscriminatorArchitecture, size: ImageSize) -> Activations:
    """Returns what a discriminator keeps for one image of this size in pixels, beside the image itself."""
    match architecture:
        case PatchArchitecture():
            widths = [architecture.base_channels * min(2**layer, 8) for layer in range(architecture.num_layers + 1)]
            kept, first = _patches(size, widths, padding=1)
        case PixelArchitecture():
            first = architecture.base_channels * _pixels(size)
            kept = 5 * first + _pixels(size)
        case MultiscaleArchitecture():
            widths = [min(architecture.base_channels * 2**layer, 512) for layer in range(architecture.num_layers)]
            kept, first = 0, 0
            for scale in range(architecture.num_scales):
                at_scale = _patches(size, widths, padding=2)
                first = first or at_scale[1]
                kept += at_scale[0] + (architecture.in_channels * _pixels(size) if scale else 0)
                size = (-(-size[0] // 2), -(-size[1] // 2))
    return Activations(kept, passing=first)


def _patches(size: ImageSize, widths: list[int], *, padding: int) -> tuple[int, int]:
    """Returns what a PatchGAN keeps, and the values that its first layer makes."""
    kept = first = 0
    for number, width in enumerate(widths):
        stride = 2 if number < len(widths) - 1 else 1
        size = _convolved(size, stride=stride, padding=padding)
        made = width * _pixels(size)
        kept += made if number == 0 else 2 * made
        first = first or made
    return kept + _pixels(_convolved(size, stride=1, padding=padding)), first


def _convolved(size: ImageSize, *, stride: int, padding: int) -> ImageSize:
    height, width = ((side + 2 * padding - 4) // stride + 1 for side in size)
    return height, width


def discriminator_parameters(architecture: DiscriminatorArchitecture) -> int:
    """Returns the number of learned values of a discriminator, but for those of its norms and biases."""
    base = architecture.base_channels
    match architecture:
        case PixelArchitecture():
            return architecture.in_channels * base + 2 * base * base + 2 * base
        case PatchArchitecture():
            widths = [architecture.in_channels, *(base * min(2**n, 8) for n in range(architecture.num_layers + 1)), 1]
            return _weights(widths)
        case MultiscaleArchitecture():
            widths = [architecture.in_channels, *(min(base * 2**n, 512) for n in range(architecture.num_layers)), 1]
            return architecture.num_scales * _weights(widths)


def _weights(widths: list[int]) -> int:
    return sum(16 * read * made for read, made in itertools.pairwise(widths))


def perceptual_activations(size: ImageSize) -> Activations:
    """Returns what the VGG19 of the perceptual loss keeps for a generated image and its target."""
    pixels, kept = _pixels(size), 0
    for number, channels in enumerate(_VGG_SLICES):
        here = pixels // 4**number
        kept += sum(channels) * here + channels[0] * here  # ReLUs of the image, and the slice's end of the target
        kept += 2 * _VGG_SLICES[number - 1][-1] * here if number else 0  # where each maximum was, 8 bytes each
    return Activations(kept, passing=3 * 64 * pixels)


def _read(layer: Layer) -> int:
    return layer.in_channels * _pixels(layer.input_size)


def _made(layer: Layer) -> int:
    return layer.out_channels * _pixels(layer.output_size)


def _pixels(size: ImageSize) -> int:
    return size[0] * size[1]
