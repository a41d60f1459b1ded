"""The layers that double the size of an inception generator's features: transposed, resize or subpixel.

All are 3x3 convolutions from C to c channels; with features of H x W pixels, all cost the same 36·C·c·H·W paper MACs:

- *transposed*: the published one. Its kernel overlaps itself unevenly, which can leave a checkerboard. On a device it
  does 9·C·c·H·W multiply-adds.
- *resize*: every pixel is repeated 2x2 times, then a convolution runs at the new size (Odena et al. 2016). On a device
  it does the 36·C·c·H·W that paper MACs count.
- *subpixel*: a convolution to 4·c channels, which become the four pixels of each 2x2 square (Shi et al. 2016). It does
  36·C·c·H·W, too, and has four times the parameters. ICNR (Aitken et al. 2017) starts the four alike, so that at first
  there is no checkerboard: it then equals a convolution followed by repeating pixels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.catlib.config.networks import Upsample


class ResizeConvolution(nn.Conv2d):
    """Repeats every pixel 2x2 times, then convolves."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch: "input"
        """Maps [N, C, H, W] to [N, out_channels, 2·H, 2·W]."""
        return super().forward(functional.interpolate(x, scale_factor=2.0, mode="nearest"))


class SubpixelConvolution(nn.Conv2d):
    """Convolves to four times the channels, which become 2x2 pixels; channels 4·i to 4·i + 3 make channel i."""

    def forward(self, x: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]  # torch: "input"
        """Maps [N, C, H, W] to [N, out_channels / 4, 2·H, 2·W]."""
        return functional.pixel_shuffle(super().forward(x), 2)

    @torch.no_grad()
    def repeat_filters(self) -> None:
        """Makes the four filters of each channel equal to the first of them (ICNR)."""
        self.weight.copy_(self.weight[::4].repeat_interleave(4, dim=0))


def make_upsampling(upsample: Upsample, in_channels: int, out_channels: int, *, bias: bool) -> nn.Module:
    """Makes a layer from [N, in_channels, H, W] to [N, out_channels, 2·H, 2·W]."""
    match upsample:
        case "transposed":
            return nn.ConvTranspose2d(
                in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1, bias=bias
            )
        case "resize":
            return ResizeConvolution(in_channels, out_channels, kernel_size=3, padding=1, bias=bias)
        case "subpixel":
            return SubpixelConvolution(in_channels, 4 * out_channels, kernel_size=3, padding=1, bias=bias)
