"""The parts that networks of all families share: norms and activations from their settings, and sums of branches.

Synchronised batch norm is `torch.nn.SyncBatchNorm` itself, wherever it runs. Without a process group (one process, CPU
or GPU) it computes exactly what `BatchNorm2d` computes; in a process group of GPUs it shares its statistics. torch
cannot train it in a process group of CPUs: choose batch norm there. Both kinds of batch norm have the same state-dict
keys, so weights move freely between them.
"""

from functools import reduce
from operator import add
from typing import Literal

from torch import Tensor, nn

from components.catlib.config import NormConfig


def make_norm(config: NormConfig, num_channels: int, *, affine: bool | None = None) -> nn.Module:
    """Makes a normalisation layer for [N, C, H, W] tensors.

    Args:
        config: Kind, running statistics, momentum and epsilon.
        num_channels: The number of channels C.
        affine: Overrides `config.affine` in layers whose place in the network decides it.
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
    """Makes an activation that overwrites its input; the input must be the fresh output of a norm.

    Args:
        name: Kind of activation; `leaky_relu` has a negative slope of 0.01.
    """
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(0.01, inplace=True)


def sum_of_branches(x: Tensor, *kinds: nn.ModuleList) -> Tensor:
    """Returns the sum of the outputs of all branches.

    The branches of a kind are added up first, in order, as in the published implementation: saturated outputs differ in
    the fifth digit when float32 numbers are added in another order.

    Args:
        x: The input of every branch, [N, C, H, W].
        kinds: The branches of each kind; at least one branch must exist.
    """
    return reduce(add, (reduce(add, (branch(x) for branch in branches)) for branches in kinds if len(branches)))
