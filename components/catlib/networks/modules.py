"""The parts that networks of all families share: norms and activations from their settings, and sums of branches.

Synchronised batch norm is `torch.nn.SyncBatchNorm` itself, wherever it runs. Without a process group (one process, CPU
or GPU) it computes exactly what `BatchNorm2d` computes; in a process group of GPUs it shares its statistics. torch
cannot train it in a process group of CPUs: choose batch norm there. Both kinds of batch norm have the same state-dict
keys, so weights move freely between them.
"""

from functools import reduce
from operator import add
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.catlib.config import NormConfig


class InstanceNorm(nn.InstanceNorm2d):
    """torch's instance norm, which also keeps images in NHWC memory there (`channels_last`).

    torch's own returns NCHW whatever it gets, so that every convolution behind it transposes the tensor back. It still
    normalises NCHW tensors, bit by bit, and on CPUs all tensors: there it takes, with the way back to NHWC, half the
    time of sums over NHWC and of group norms with a group per channel. On GPUs such a group norm returns NCHW, too.
    """

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch: "input"
        """Normalises [N, C, H, W]; in NHWC memory within rounding of what it computes in NCHW memory."""
        running = self.running_mean, self.running_var
        by_image = self.training or not self.track_running_stats
        nhwc = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
        if not nhwc or x.device.type == "cpu":
            normalised = functional.instance_norm(
                x, *running, self.weight, self.bias, by_image, self.momentum or 0.0, self.eps
            )
            return normalised.contiguous(memory_format=torch.channels_last) if nhwc else normalised
        if not by_image:
            return functional.batch_norm(x, *running, self.weight, self.bias, eps=self.eps)
        return self.by_sums(x)

    def by_sums(self, x: Tensor) -> Tensor:
        """Normalises [N, C, H, W] by the images' statistics and keeps NHWC memory on every device."""
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        var, mean = torch.var_mean(wide, dim=(2, 3), correction=0, keepdim=True)
        if self.track_running_stats:
            self._track(mean, var, values=x.shape[2] * x.shape[3])
        scale = torch.rsqrt(var + self.eps)
        shift = -mean * scale
        if self.affine:
            scale, shift = scale * self.weight[:, None, None], shift * self.weight[:, None, None]
            shift = shift + self.bias[:, None, None]
        return torch.addcmul(shift, wide, scale).to(x.dtype)

    @torch.no_grad()
    def _track(self, mean_NC11: Tensor, var_NC11: Tensor, *, values: int) -> None:
        """Updates the running statistics as torch does: by the means of the images' statistics, variances unbiased."""
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        self.running_mean.lerp_(mean_NC11.mean(dim=(0, 2, 3)), self.momentum)
        self.running_var.lerp_(var_NC11.mean(dim=(0, 2, 3)) * values / (values - 1), self.momentum)


def make_norm(config: NormConfig, num_channels: int, *, affine: bool | None = None) -> nn.Module:
    """Makes a normalisation layer for [N, C, H, W] tensors.

    Args:
        config: Kind, running statistics, momentum and epsilon.
        num_channels: The number of channels C.
        affine: Overrides `config.affine` in layers whose place in the network decides it.
    """
    classes = {"instance": InstanceNorm, "batch": nn.BatchNorm2d, "syncbatch": nn.SyncBatchNorm}
    return classes[config.kind](
        num_channels,
        eps=config.epsilon,
        momentum=config.momentum,
        affine=config.affine if affine is None else affine,
        track_running_stats=config.track_running_stats,
    )


def make_activation(
    name: Literal["relu", "leaky_relu"], *, after: Literal["instance", "batch", "syncbatch"], slope: float = 0.01
) -> nn.Module:
    """Makes the activation behind a norm; it overwrites its input unless that is the output of an instance norm.

    What torch's instance norm returns is a view. Autograd answers an overwritten view with zeroes and copies.

    Args:
        name: Kind of activation.
        after: Kind of the norm.
        slope: The negative slope of `leaky_relu`.
    """
    inplace = after != "instance"
    match name:
        case "relu":
            return nn.ReLU(inplace)
        case "leaky_relu":
            return nn.LeakyReLU(slope, inplace)


def sum_of_branches(x: Tensor, *kinds: nn.ModuleList) -> Tensor:
    """Returns the sum of the outputs of all branches.

    The branches of a kind are added up first, in order, as in the published implementation: saturated outputs differ in
    the fifth digit when float32 numbers are added in another order.

    Args:
        x: The input of every branch, [N, C, H, W].
        kinds: The branches of each kind; at least one branch must exist.
    """
    return reduce(add, (reduce(add, (branch(x) for branch in branches)) for branches in kinds if len(branches)))
