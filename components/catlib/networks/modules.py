"""Normalisation and activation layers, made from their configuration.

Synchronised batch norm is `torch.nn.SyncBatchNorm` itself, wherever it runs. Without a process group (one process, CPU
or GPU) it computes exactly what `BatchNorm2d` computes; in a process group of GPUs it shares its statistics. torch
refuses only to train it in a process group of CPUs: choose batch norm there. Both kinds of batch norm have the same
state-dict keys, so weights move freely between them.
"""

from typing import Literal

from torch import nn

from components.catlib.config import NormConfig


def make_norm(config: NormConfig, num_channels: int, *, affine: bool | None = None) -> nn.Module:
    """Makes a normalisation layer for [N, C, H, W] tensors.

    Args:
        config: Kind, running statistics, momentum and epsilon.
        num_channels: C.
        affine: Overrides `config.affine`, for layers whose place decides about it.
    """
    classes = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "syncbatch": nn.SyncBatchNorm}
    return classes[config.kind](
        num_channels,
        eps=config.epsilon,
        momentum=config.momentum,
        affine=config.affine if affine is None else affine,
        track_running_stats=config.track_running_stats,
    )


def make_activation(name: Literal["relu", "leaky_relu"]) -> nn.Module:
    """Makes an activation that overwrites its input, so that must be the fresh output of a norm.

    Args:
        name: `leaky_relu` has slope 0.01.
    """
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(0.01, inplace=True)
