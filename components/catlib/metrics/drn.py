"""DRN-D-105, the segmenter that published mIoU on Cityscapes is measured with.

A dilated residual network (Yu, Koltun and Funkhouser 2017, "Dilated Residual Networks", section 4: variant D, which
begins and ends with plain convolutions against gridding). The names of its tensors are those of the published weights
`drn-d-105_ms_cityscapes.pth`:

    base.0   conv 7×7, 16           base.5   23 bottlenecks, 1024, dilation 2
    base.1   conv 3×3, 16           base.6   3 bottlenecks, 2048, dilation 4
    base.2   conv 3×3, 32, ÷2       base.7   conv 3×3, 512, dilation 2
    base.3   3 bottlenecks, 256, ÷2 base.8   conv 3×3, 512
    base.4   4 bottlenecks, 512, ÷2 seg      conv 1×1, 19 classes; up: ×8

A 256×512 image has 32×64 features from `base.4` on, and scores [19, 256, 512].
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.catlib.metrics.segmentation import CITYSCAPES_CLASSES
from components.catlib.networks.published.reading import read_state_dict
from components.catlib.networks.state_dicts import check_state

MEAN = (0.29010095242892997, 0.32808144844279574, 0.28696394422942517)
STD = (0.1829540508368939, 0.18656561047509476, 0.18447508988480435)
"""Mean and standard deviation of the colours of Cityscapes in [0, 1], which the published weights were trained with."""

EXPANSION = 4
"""Channels of a bottleneck outside, as a multiple of those inside."""

BATCHES_SEEN = "num_batches_tracked"
"""A counter of norms that newer files have and older ones lack; nothing depends on it."""


class Bottleneck(nn.Module):
    """Convolutions 1×1, 3×3 (with stride or dilation) and 1×1, added to the input; norms between them."""

    def __init__(self, in_channels: int, channels: int, *, stride: int = 1, dilation: int = 1) -> None:
        """Makes the block; it has `EXPANSION * channels` output channels."""
        super().__init__()
        out_channels = EXPANSION * channels
        self.conv1 = nn.Conv2d(in_channels, channels, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, stride, padding=dilation, dilation=dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(out_channels)
        self.downsample = None
        if stride != 1 or in_channels != out_channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(in_channels, out_channels, 1, stride, bias=False), nn.BatchNorm2d(out_channels)
            )

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Computes [N, out_channels, H / stride, W / stride]."""
        shortcut_NCHW = x_NCHW if self.downsample is None else self.downsample(x_NCHW)
        x_NCHW = functional.relu(self.bn1(self.conv1(x_NCHW)))
        x_NCHW = functional.relu(self.bn2(self.conv2(x_NCHW)))
        return functional.relu(self.bn3(self.conv3(x_NCHW)) + shortcut_NCHW)


class DilatedResidualNetwork(nn.Module):
    """DRN-D-105 with a score per class and pixel."""

    def __init__(self, num_classes: int = CITYSCAPES_CLASSES) -> None:
        """Makes the network with random weights, its last layer with those of bilinear interpolation."""
        super().__init__()
        self.base = nn.Sequential(
            _convolution(3, 16, kernel_size=7),
            _convolution(16, 16),
            _convolution(16, 32, stride=2),
            _bottlenecks(32, 64, count=3, stride=2),
            _bottlenecks(256, 128, count=4, stride=2),
            _bottlenecks(512, 256, count=23, dilation=2),
            _bottlenecks(1024, 512, count=3, dilation=4),
            _convolution(2048, 512, dilation=2),
            _convolution(512, 512),
        )
        self.seg = nn.Conv2d(512, num_classes, 1)
        self.up = nn.ConvTranspose2d(num_classes, num_classes, 16, stride=8, padding=4, groups=num_classes, bias=False)
        with torch.no_grad():
            self.up.weight.copy_(_bilinear(16).expand_as(self.up.weight))
        self.eval().requires_grad_(False)

    def forward(self, x_NCHW: Tensor) -> Tensor:
        """Computes logits [N, num_classes, H, W] of normalised images whose sides are multiples of 8."""
        return self.up(self.seg(self.base(x_NCHW)))


def read_drn(path: Path, *, sha256: str | None = None) -> DilatedResidualNetwork:
    """Reads the published weights.

    Args:
        path: `drn-d-105_ms_cityscapes.pth`, or a file of the same layout.
        sha256: Digest the file must have; it is checked before anything is read from the file.

    Raises:
        UserError: The file is missing, has another digest or is no state dict, or a tensor (which is named) is missing,
            unknown or of another shape.
    """
    state = read_state_dict(path, sha256=sha256)
    state = {name: tensor for name, tensor in state.items() if not name.endswith(BATCHES_SEEN)}
    with torch.device("meta"):
        network = DilatedResidualNetwork()
    expected = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith(BATCHES_SEEN)}
    check_state(state, expected, where=f"{path}, the weights of a DRN-D-105,")
    # The counters stay on the meta device with everything else that is not assigned: make them anew.
    counters = {name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if name not in expected}
    network.load_state_dict(state | counters, assign=True)
    return network.requires_grad_(False)


def _convolution(
    in_channels: int, out_channels: int, *, kernel_size: int = 3, stride: int = 1, dilation: int = 1
) -> nn.Sequential:
    padding = dilation * (kernel_size // 2)
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, kernel_size, stride, padding, dilation, bias=False),
        nn.BatchNorm2d(out_channels),
        nn.ReLU(),
    )


def _bottlenecks(in_channels: int, channels: int, *, count: int, stride: int = 1, dilation: int = 1) -> nn.Sequential:
    first = Bottleneck(in_channels, channels, stride=stride, dilation=dilation)
    others = [Bottleneck(EXPANSION * channels, channels, dilation=dilation) for _ in range(count - 1)]
    return nn.Sequential(first, *others)


def _bilinear(size: int) -> Tensor:
    """Returns the kernel [size, size] with which a transposed convolution of stride size / 2 interpolates."""
    offsets = (torch.arange(size) - (size - 1) / 2).abs()
    triangle = 1 - offsets / (size / 2)
    return triangle[:, None] * triangle[None, :]
