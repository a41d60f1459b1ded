"""The weights of an inception generator as arrays: what a graph is written from, and what rewrites change.

Shape suffixes: O outputs, I inputs, K kernel.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import nn

from components.catlib.networks.inception.architecture import INCEPTION_PATHS, InceptionArchitecture
from components.catlib.networks.inception.generator import InceptionGenerator
from components.catlib.networks.layers import existing_branches


@dataclass(frozen=True)
class Norm:
    """A norm that computes statistics when it runs; one with running statistics is folded before.

    Attributes:
        over: "image": of every image, as instance norm; "batch": of all images together.
        scale: float32 [C].
        shift: float32 [C].
        epsilon: Constant added to the variance.
    """

    over: Literal["image", "batch"]
    scale: np.ndarray
    shift: np.ndarray
    epsilon: float


@dataclass(frozen=True)
class Convolution:
    """A convolution, and the norm behind it.

    Attributes:
        name: Path of the module.
        weight: float32 [O, I / groups, K, K]; of a transposed one [I, O, K, K].
        bias: float32 [O], or None.
        norm: The norm of its output; None if there is none, or if it is folded.
    """

    name: str
    weight: np.ndarray
    bias: np.ndarray | None
    norm: Norm | None = None

    @property
    def kernel_size(self) -> int:
        """Side of the kernel in pixels."""
        return self.weight.shape[-1]


@dataclass(frozen=True)
class Residual:
    """A residual-conv branch: two convolutions of one kernel size."""

    first: Convolution
    out: Convolution


@dataclass(frozen=True)
class Depthwise:
    """A depthwise branch: a depthwise convolution between two of 1x1."""

    first: Convolution
    depthwise: Convolution
    out: Convolution


@dataclass(frozen=True)
class Block:
    """y = x + norm(Σ branches(x)).

    Attributes:
        name: Path of the module.
        residuals: The residual-conv branches that exist.
        depthwises: The depthwise branches that exist.
        norm: The output's norm; None if it is folded.
    """

    name: str
    residuals: tuple[Residual, ...]
    depthwises: tuple[Depthwise, ...]
    norm: Norm | None


@dataclass(frozen=True)
class InceptionWeights:
    """All layers with weights, in the order of the network; blocks without branches are left out."""

    down: tuple[Convolution, ...]
    blocks: tuple[Block, ...]
    up: tuple[Convolution, ...]
    last: Convolution


def read_weights(network: InceptionGenerator) -> InceptionWeights:
    """Reads the weights of a network whose norms are folded (`inference_copy`)."""
    architecture = network.architecture
    assert isinstance(architecture, InceptionArchitecture)
    blocks = []
    for number, channels in enumerate(architecture.blocks):
        name = f"features.{number}"
        branches = list(existing_branches(channels, architecture.kernel_sizes, name))
        residual, depthwise = INCEPTION_PATHS["res"], INCEPTION_PATHS["dw"]
        residuals = [
            Residual(
                _convolution(network, each.path + residual.conv_in, each.path + residual.norm_in),
                _convolution(network, each.path + residual.conv_out),
            )
            for each in branches
            if each.kind == "res"
        ]
        depthwises = [
            Depthwise(
                _convolution(network, each.path + depthwise.conv_in, each.path + depthwise.norm_in),
                _convolution(network, each.path + depthwise.conv_depthwise, each.path + depthwise.norm_depthwise),
                _convolution(network, each.path + depthwise.conv_out),
            )
            for each in branches
            if each.kind == "dw"
        ]
        if branches:
            blocks.append(Block(name, tuple(residuals), tuple(depthwises), _norm(network, f"{name}.pw_bn")))
    return InceptionWeights(
        down=tuple(_convolution(network, f"down_sampling.{n}", f"down_sampling.{n + 1}") for n in (1, 4, 7)),
        blocks=tuple(blocks),
        up=tuple(_convolution(network, f"up_sampling.{n}", f"up_sampling.{n + 1}") for n in (0, 3)),
        last=_convolution(network, "up_sampling.7"),
    )


def _convolution(network: nn.Module, name: str, norm: str | None = None) -> Convolution:
    module = network.get_submodule(name)
    assert isinstance(module, nn.Conv2d | nn.ConvTranspose2d), name
    bias = None if module.bias is None else _array(module.bias)
    return Convolution(name, _array(module.weight), bias, None if norm is None else _norm(network, norm))


def _norm(network: nn.Module, name: str) -> Norm | None:
    module = network.get_submodule(name)
    if isinstance(module, nn.Identity):
        return None
    assert isinstance(module, nn.InstanceNorm2d | nn.BatchNorm2d | nn.SyncBatchNorm), name
    assert module.running_mean is None, f"{name} has running statistics; fold it before"
    scale = _array(module.weight) if module.affine else np.ones(module.num_features, np.float32)
    shift = _array(module.bias) if module.affine else np.zeros(module.num_features, np.float32)
    return Norm("image" if isinstance(module, nn.InstanceNorm2d) else "batch", scale, shift, module.eps)


def _array(tensor: torch.Tensor) -> np.ndarray:
    return tensor.detach().numpy()
