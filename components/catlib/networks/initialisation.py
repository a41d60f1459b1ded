"""Initial weights of generators and discriminators (method section 1.3)."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from components.catlib.networks.upsampling import SubpixelConvolution


def initialise(network: nn.Module, *, kind: Literal["normal", "xavier"], gain: float, seed: int) -> None:
    """Draws fresh weights in place, with its own random numbers: equal seeds give bitwise equal weights on any device.

    Weights of convolutions follow N(0, gain) (`normal`) or Glorot's normal distribution times `gain` (`xavier`); their
    biases are 0. Scales of batch norms follow N(1, gain), scales of instance norms are 1; both have biases of 0 and
    reset running statistics. The vectors of spectral norms are drawn as well.

    Args:
        network: The network to change.
        kind: Distribution of convolution weights.
        gain: Standard deviation (`normal`) or factor (`xavier`), and the standard deviation of batch-norm scales.
        seed: Seed of the random numbers.
    """
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
                _initialise_convolution(module, kind=kind, gain=gain, random=random)
            elif isinstance(module, _BatchNorm | _InstanceNorm):
                module.reset_parameters()  # scales 1, biases 0, running statistics 0 and 1
                if isinstance(module, _BatchNorm) and module.affine:
                    module.weight.copy_(1 + gain * _standard_normal(module.weight, random))


def _initialise_convolution(
    convolution: nn.Conv2d | nn.ConvTranspose2d,
    *,
    kind: Literal["normal", "xavier"],
    gain: float,
    random: torch.Generator,
) -> None:
    parameters = dict(convolution.named_parameters(recurse=False))
    weight = parameters.get("weight_orig", parameters.get("weight"))  # spectral norm renames the parameter
    assert weight is not None
    match kind:
        case "normal":
            deviation = gain
        case "xavier":
            kernel_area = math.prod(weight.shape[2:])
            deviation = gain * math.sqrt(2 / ((weight.shape[0] + weight.shape[1]) * kernel_area))
    weight.copy_(deviation * _standard_normal(weight, random))
    if isinstance(convolution, SubpixelConvolution):
        convolution.repeat_filters()
    if convolution.bias is not None:
        convolution.bias.zero_()
    for name, vector in convolution.named_buffers(recurse=False):
        assert name in ("weight_u", "weight_v"), name
        vector.copy_(functional.normalize(_standard_normal(vector, random), dim=0))


def _standard_normal(like: Tensor, random: torch.Generator) -> Tensor:
    """Draws on the CPU, whatever the device of `like`, so that the numbers do not depend on it."""
    return torch.randn(like.shape, generator=random).to(like.device)
