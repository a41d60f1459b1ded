"""The inception residual generator of pix2pix and CycleGAN (method section 1.1, paper section 3.1).

The names of modules are those of published checkpoints. The children of an `nn.Sequential` are named by their position
there, so positions without parameters (padding, activations, dropout) keep their number where other modules follow.

A student is this class, built from an architecture with fewer channels. A branch of 0 channels does not exist; a block
without branches is the identity.
"""

from collections import OrderedDict
from typing import Literal

from torch import Tensor, nn

from components.catlib.config import NormConfig
from components.catlib.networks.fusing import BranchLayers, sum_together
from components.catlib.networks.generator import Generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import Branch, BranchChannels, existing_branches
from components.catlib.networks.modules import make_activation, make_norm, sum_of_branches
from components.catlib.networks.upsampling import make_upsampling


def _numbered(layers: dict[int, nn.Module]) -> nn.Sequential:
    """Makes a sequence whose modules have the given numbers in the state dict."""
    return nn.Sequential(OrderedDict((str(number), layer) for number, layer in layers.items()))


class InceptionBlock(nn.Module):
    """y = x + norm(Σ branches(x)); without branches y = x."""

    def __init__(self, channels: int, branches: BranchChannels, architecture: InceptionArchitecture) -> None:
        super().__init__()
        self._architecture = architecture
        self.fuses = False
        self.res_ops = nn.ModuleList()
        self.dw_ops = nn.ModuleList()
        for branch in existing_branches(branches, architecture.kernel_sizes, prefix=""):
            if branch.kind == "res":
                self.res_ops.append(self._residual_branch(channels, branch))
            else:
                self.dw_ops.append(self._depthwise_branch(channels, branch))
        self.pw_bn = None if branches.vanished else make_norm(architecture.norm, channels)

    def _residual_branch(self, channels: int, branch: Branch) -> nn.Sequential:
        hidden, k = branch.hidden_channels, branch.kernel_size
        first = nn.Sequential(self._convolution(channels, hidden, k), *self._norm_and_activation(hidden))
        return _numbered(
            {1: first, 2: nn.Dropout(self._architecture.dropout), 4: self._convolution(hidden, channels, k)}
        )

    def _depthwise_branch(self, channels: int, branch: Branch) -> nn.Sequential:
        hidden, k = branch.hidden_channels, branch.kernel_size
        return _numbered(
            {
                0: nn.Sequential(self._convolution(channels, hidden, 1), *self._norm_and_activation(hidden)),
                2: nn.Sequential(
                    self._convolution(hidden, hidden, k, groups=hidden), *self._norm_and_activation(hidden)
                ),
                3: nn.Dropout(self._architecture.dropout),
                4: self._convolution(hidden, channels, 1),
            }
        )

    def _convolution(self, in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> nn.Conv2d:
        """Makes a convolution that keeps the size, with the architecture's padding."""
        padding = self._architecture.padding
        return nn.Conv2d(
            in_channels,
            out_channels,
            kernel_size,
            padding=kernel_size // 2,
            # A 1x1 kernel needs no edge, but torch would copy the whole tensor to reflect nothing.
            padding_mode="zeros" if padding == "zero" or kernel_size == 1 else padding,
            groups=groups,
            bias=self._architecture.convs_have_bias,
        )

    def _norm_and_activation(self, channels: int) -> tuple[nn.Module, nn.Module]:
        return _norm_and_activation(self._architecture.norm, channels, self._architecture.activation)

    def summed_into_norm(self) -> tuple[str, list[nn.Conv2d]]:
        """Returns the name of the output norm, and the convolutions whose sum it normalises."""
        last_layers = [branch[-1] for branch in (*self.res_ops, *self.dw_ops) if isinstance(branch, nn.Sequential)]
        return "pw_bn", [layer for layer in last_layers if isinstance(layer, nn.Conv2d)]

    def forward(self, x: Tensor) -> Tensor:
        """Maps features [N, C, H, W] to features of the same shape; never changes its input."""
        if self.pw_bn is None:
            return x
        if self.fuses:
            return x + self.pw_bn(sum_together(x, self._branch_layers()))
        return x + self.pw_bn(sum_of_branches(x, self.res_ops, self.dw_ops))

    def _branch_layers(self) -> list[BranchLayers]:
        places = [(branch, "1", None, "2") for branch in self.res_ops] + [
            (branch, "0", "2", "3") for branch in self.dw_ops
        ]
        return [
            BranchLayers.of(
                branch.get_submodule(hidden),
                depthwise=branch.get_submodule(depthwise) if depthwise else None,
                dropout=branch.get_submodule(dropout),
                out=branch.get_submodule("4"),
            )
            for branch, hidden, depthwise, dropout in places
        ]


class InceptionGenerator(Generator):
    """Down-sampling, residual inception blocks, up-sampling.

    Distillation compares the last down-sampling ReLU and the blocks that end each third of the features (2, 5, 8 of 9).
    """

    def __init__(self, architecture: InceptionArchitecture) -> None:
        super().__init__(architecture)
        norm, bias = architecture.norm, architecture.convs_have_bias
        first, second, width = architecture.down
        self.down_sampling = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(architecture.in_channels, first, kernel_size=7, bias=bias),
            *_norm_and_activation(norm, first),
            nn.Conv2d(first, second, kernel_size=3, stride=2, padding=1, bias=bias),
            *_norm_and_activation(norm, second),
            nn.Conv2d(second, width, kernel_size=3, stride=2, padding=1, bias=bias),
            *_norm_and_activation(norm, width),
        )
        self.features = nn.Sequential(*(InceptionBlock(width, block, architecture) for block in architecture.blocks))
        third, last = architecture.up
        self.up_sampling = nn.Sequential(
            make_upsampling(architecture.upsample, width, third, bias=bias),
            *_norm_and_activation(norm, third),
            make_upsampling(architecture.upsample, third, last, bias=bias),
            *_norm_and_activation(norm, last),
            nn.ReflectionPad2d(3),
            nn.Conv2d(last, architecture.out_channels, kernel_size=7),
            nn.Tanh(),
        )

    @property
    def segments(self) -> tuple[str, ...]:
        """Down-sampling, every block, up-sampling."""
        blocks = (f"features.{number}" for number in range(len(self.features)))
        return ("down_sampling", *blocks, "up_sampling")

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Translates images.

        Args:
            x: [N, in_channels, H, W] in [-1, 1]; H and W multiples of 4.
            return_features: Whether to return the outputs of `distillation_layers` as well.

        Returns:
            The images [N, out_channels, H, W] in [-1, 1]; with `return_features` also the features by name, in order,
            each [N, C, H/4, W/4].

        Raises:
            UserError: The images have a size that the network cannot translate.
        """
        self.architecture.check_size(x.shape[-2], x.shape[-1], where="The input")
        x = self.down_sampling(x)
        features = {"down_sampling.9": x}
        for number, block in enumerate(self.features):
            x = block(x)
            if f"features.{number}" in self.distillation_layers:
                features[f"features.{number}"] = x
        image = self.up_sampling(x)
        return (image, features) if return_features else image


def _norm_and_activation(
    norm: NormConfig, channels: int, activation: Literal["relu", "leaky_relu"] = "relu"
) -> tuple[nn.Module, nn.Module]:
    return make_norm(norm, channels), make_activation(activation, after=norm.kind)
