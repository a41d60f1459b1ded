"""How far a generator looks: which pixels of its input decide one pixel of its image.

Positions are counted in pixels of the image. A layer that computes at 1/f of its size reaches f times as far: of
down-sampling and transposed convolutions the larger of the two sizes counts. Branches of a block lie beside each other,
so the widest counts; everything else lies behind each other and adds up. An inception generator with the first and
last kernels of 7, two halvings, two doublings and one block with two convolutions of 5 in its widest branch reaches

    3 + 1 + 2 + 4 * (2 + 2) + 2 + 1 + 3 = 28 pixels.
"""

from __future__ import annotations

import re
from collections import defaultdict

from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.layers import Layer

_BRANCH = re.compile(r"(.+)\.((?:res|dw)_\d+x\d+)\.conv_\w+")
"""The identity of a layer in a branch: its block, then its branch."""


def receptive_radius(architecture: GeneratorArchitecture) -> int | None:
    """Returns the largest distance between a pixel of the image and a pixel of the input that can change it.

    Args:
        architecture: A generator.

    Returns:
        Pixels, along rows or columns. None if every pixel of the input counts, because a norm uses the statistics of
        the image itself (instance norm without running statistics), or if the generator makes one size only.
    """
    if architecture.fixed_size is not None:
        return None
    size = 64 * architecture.size_step
    layers = architecture.layers(size, size)
    if any(layer.kind == "norm" and not layer.tracks_running_stats for layer in layers):
        return None
    blocks: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for layer in layers:
        if layer.kind != "norm":
            in_branch = _BRANCH.fullmatch(layer.identity)
            block, branch = in_branch.groups() if in_branch else (layer.name, "")
            scale = size // max(layer.input_size[0], layer.output_size[0])
            blocks[block][branch] += _reach(layer) * scale
    return sum(max(branches.values()) for branches in blocks.values())


def _reach(layer: Layer) -> int:
    """Returns how far a convolution looks, in pixels of the larger of its two sizes.

    What comes from repeated pixels or becomes several is a pixel farther from the one it lies on.
    """
    edge = layer.kernel_size // 2
    match layer.kind:
        case "conv_resize":
            return edge + 1
        case "conv_subpixel":
            return 2 * edge + 1
        case _:
            return edge
