"""Folds norms into convolutions, for a network that is only evaluated."""

from __future__ import annotations

import copy
import itertools
from typing import Protocol, runtime_checkable

import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from components.catlib.networks.generator import Generator
from components.catlib.networks.upsampling import SubpixelConvolution


def inference_copy(generator: Generator) -> Generator:
    """Returns a copy that computes the same images with fewer operations, for export.

    In eval mode a norm with running statistics is one multiplication and addition per channel:

    - an instance norm with running statistics becomes the batch norm that equals it;
    - a batch norm behind a convolution moves into it (the exporter would do so too, in twice the time);
    - the batch norm over the sum of a block's branches moves into the last convolutions of the branches:
      s · Σ (w_j * x + b_j) + t = Σ (s·w_j * x + s·b_j) + t;
    - a bias is left out where an instance norm subtracts it again, because ONNX Runtime's instance norm is imprecise
      where means are much larger than deviations (untrained weights at 256x256: off by 2e-4, without those biases by
      9e-6);
    - spectral norm becomes plain weights.
    """
    network = copy.deepcopy(generator).eval()
    network.fuse_branches(False)
    for module in network.modules():
        if isinstance(module, nn.Conv2d) and hasattr(module, "weight_orig"):
            nn.utils.remove_spectral_norm(module)
    for parent in list(network.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, nn.InstanceNorm2d) and norm.track_running_stats:
                parent.add_module(name, _as_batch_norm(norm))
    for module in network.modules():
        if isinstance(module, nn.Sequential):
            _simplify_norms(module)
        elif isinstance(module, NormsItsBranches):
            _simplify_output(module, *module.summed_into_norm())
    return network


def _as_batch_norm(norm: nn.InstanceNorm2d) -> nn.BatchNorm2d:
    batch_norm = nn.BatchNorm2d(norm.num_features, eps=norm.eps, affine=norm.affine)
    batch_norm.load_state_dict(norm.state_dict())
    return batch_norm.eval()


def _for_four_filters(norm: nn.BatchNorm2d | nn.SyncBatchNorm) -> nn.BatchNorm2d:
    """Returns the norm of channels that four filters each make, as one of these filters."""
    wide = nn.BatchNorm2d(4 * norm.num_features, eps=norm.eps, affine=norm.affine)
    state = {name: values.repeat_interleave(4) if values.ndim else values for name, values in norm.state_dict().items()}
    wide.load_state_dict(state)
    return wide.eval()


def _simplify_norms(layers: nn.Sequential) -> None:
    """Folds norms into the convolutions in front of them, or removes the biases that these norms subtract again."""
    for (place, layer), (norm_place, norm) in itertools.pairwise(list(layers.named_children())):
        if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            continue
        subpixel = isinstance(layer, SubpixelConvolution)
        if isinstance(norm, nn.InstanceNorm2d):
            if not subpixel:  # its biases differ within a channel, which no norm subtracts
                layer.bias = None
        elif isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and norm.running_mean is not None:
            of_filters = _for_four_filters(norm) if subpixel else norm
            layers.add_module(place, fuse_conv_bn_eval(layer, of_filters, isinstance(layer, nn.ConvTranspose2d)))
            layers.add_module(norm_place, nn.Identity())


@runtime_checkable
class NormsItsBranches(Protocol):
    """A block that normalises the sum of its branches."""

    def summed_into_norm(self) -> tuple[str, list[nn.Conv2d]]:
        """Returns the name of the norm, and the convolutions whose sum it normalises."""
        ...


@torch.no_grad()
def _simplify_output(block: nn.Module, norm_name: str, convolutions: list[nn.Conv2d]) -> None:
    """Folds a block's output norm into its branches, or removes the biases that this norm subtracts again."""
    norm = getattr(block, norm_name)
    if isinstance(norm, nn.InstanceNorm2d):
        for convolution in convolutions:
            convolution.bias = None
    elif isinstance(norm, nn.BatchNorm2d | nn.SyncBatchNorm) and norm.running_mean is not None:
        assert norm.running_var is not None
        scale = torch.rsqrt(norm.running_var + norm.eps)
        shift = -norm.running_mean * scale
        if norm.affine:
            scale, shift = scale * norm.weight, shift * norm.weight + norm.bias
        for convolution in convolutions:
            convolution.weight.mul_(scale[:, None, None, None])
            bias = shift if convolution.bias is None else convolution.bias * scale + shift
            convolution.bias = nn.Parameter(bias)
            shift = torch.zeros_like(shift)  # once is enough
        block.add_module(norm_name, nn.Identity())
