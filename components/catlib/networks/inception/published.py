"""How inception generators are laid out in published state dicts (method section 1.1)."""

from __future__ import annotations

from typing import Any

from components.catlib.config.networks import InceptionConfig
from components.catlib.errors import UserError
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import ImageSize
from components.catlib.networks.published.names import (
    PublishedLayout,
    StateNames,
    branch_channels,
    common_kernel_sizes,
    read_branches,
)


def _architecture(names: StateNames, like: InceptionConfig, input_size: ImageSize) -> dict[str, Any]:
    if like.upsample != "transposed":
        raise UserError(
            f"{names.where} holds a published generator, whose up layers are transposed convolutions, but upsample is "
            f"{like.upsample}; leave upsample out, or train without published weights."
        )
    first = names.kernel("down_sampling.1.weight")
    blocks = [
        read_branches(names, f"features.{number}", residual_convolution="1.0", depthwise_convolution="2.0")
        for number in range(names.count("features."))
    ]
    kernel_sizes = common_kernel_sizes(blocks, names.where) or like.kernel_sizes
    return {
        "family": "inception",
        "in_channels": first[1],
        "out_channels": names.kernel("up_sampling.7.weight")[0],
        "down": [first[0], names.kernel("down_sampling.4.weight")[0], names.kernel("down_sampling.7.weight")[0]],
        "blocks": [branch_channels(block, kernel_sizes) for block in blocks],
        "up": [names.kernel("up_sampling.0.weight")[1], names.kernel("up_sampling.3.weight")[1]],
        "kernel_sizes": kernel_sizes,
        "norm": names.norm_after(like.norm, "down_sampling.1", "down_sampling.2"),
        "padding": like.padding,
        "dropout": like.dropout,
        "activation": like.activation,
    }


def _unread(architecture: InceptionArchitecture) -> list[str]:
    return [f"features.{number}.pw_bn." for number, block in enumerate(architecture.blocks) if block.vanished]


INCEPTION_LAYOUT = PublishedLayout("down_sampling.1.weight", _architecture, _unread)
