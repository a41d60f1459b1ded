"""How inception SPADE generators are laid out in published state dicts (method section 1.2)."""

from __future__ import annotations

import re
from typing import Any

from components.catlib.config.networks import InceptionSpadeConfig
from components.catlib.errors import UserError
from components.catlib.networks.layers import ImageSize
from components.catlib.networks.published.names import (
    PublishedLayout,
    StateNames,
    branch_channels,
    common_kernel_sizes,
    read_branches,
)
from components.catlib.networks.spade.architecture import UPSAMPLING_STEPS, InceptionSpadeArchitecture


def _architecture(names: StateNames, like: InceptionSpadeConfig, input_size: ImageSize) -> dict[str, Any]:
    width, semantic_channels, _ = names.kernel("fc.weight")
    if width % 16:
        raise UserError(f"{names.where}: tensor fc.weight makes {width} channels, expected a multiple of 16.")
    ups = [f"up_{number}" for number in names.numbers("up_")]
    blocks = {}
    for name in ["head_0", "G_middle_0", "G_middle_1", *ups]:
        main = read_branches(names, name, residual_convolution="0.conv", depthwise_convolution="1.conv")
        spade = read_branches(names, f"{name}.spade", residual_convolution="0.conv", depthwise_convolution="1.conv")
        blocks[name] = {"branches": main, "spade": spade}
    every = [branches for block in blocks.values() for branches in block.values()]
    kernel_sizes = common_kernel_sizes(every, names.where) or like.kernel_sizes
    few = "normal" if like.num_upsampling_layers == "normal" else "more"
    upsampling = "most" if len(ups) == 5 else few
    height, crop_width = input_size
    multiple = 2 ** UPSAMPLING_STEPS[upsampling]
    if height % multiple or crop_width % multiple:
        raise UserError(
            f"{names.where} is a SPADE generator that doubles its size {UPSAMPLING_STEPS[upsampling]} times "
            f"(num_upsampling_layers {upsampling}): images must be multiples of {multiple} pixels, found "
            f"{height}x{crop_width}."
        )
    return {
        "family": "inception_spade",
        "semantic_channels": semantic_channels,
        "out_channels": names.kernel("conv_img.weight")[0],
        "base_channels": width // 16,
        "blocks": {
            name: {part: branch_channels(branches, kernel_sizes) for part, branches in block.items()}
            for name, block in blocks.items()
        },
        "kernel_sizes": kernel_sizes,
        "num_upsampling_layers": upsampling,
        "crop_width": crop_width,
        "aspect_ratio": crop_width / height,
        "norm": _branch_norm(names, like),
        "spade_norm": _modulated_norm(names, like),
        "spectral": any(name.endswith(".weight_orig") for name in names.state),
        "dropout": like.dropout,
        "activation": like.activation,
    }


def _branch_norm(names: StateNames, like: InceptionSpadeConfig) -> dict[str, Any]:
    """Returns the norms of branches; as convolutions always have a bias, running statistics alone show batch norm."""
    of_branches = (name for name in names.state if re.search(r"_ops\.\d+\.0\.norm\.", name))
    norm = next(of_branches, "up_0.shortcut.0.weight").rpartition(".")[0]
    tracks = f"{norm}.running_mean" in names.state
    return names.norm(like.norm, norm, kind="syncbatch" if tracks and like.norm.kind == "instance" else like.norm.kind)


def _modulated_norm(names: StateNames, like: InceptionSpadeConfig) -> str:
    if not any(name.endswith(".spade.param_free_norm.running_mean") for name in names.state):
        return "instance"
    return like.spade_norm if like.spade_norm != "instance" else "syncbatch"


def _unread(architecture: InceptionSpadeArchitecture) -> list[str]:
    return [f"{name}.spade." for name, block in architecture.blocks.items() if block.branches.vanished]


INCEPTION_SPADE_LAYOUT = PublishedLayout("fc.weight", _architecture, _unread)
