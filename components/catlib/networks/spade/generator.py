"""The inception SPADE generator of GauGAN (method section 1.2).

The names of modules are those of published checkpoints. A student is this class, built from an architecture with fewer
channels. A branch of 0 channels does not exist; a block without branches is its shortcut.

S stands for the semantic tensor: one-hot label planes and optionally an instance-edge plane, in {0, 1}.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from components.catlib.config import NormConfig
from components.catlib.networks.fusing import BranchLayers, sum_together
from components.catlib.networks.generator import Generator
from components.catlib.networks.layers import Branch, existing_branches
from components.catlib.networks.modules import make_activation, make_norm, sum_of_branches
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture

FINAL_NEGATIVE_SLOPE = 0.2
"""Negative slope of the leaky ReLU in front of the last convolution."""


def _same_size_convolution(in_channels: int, out_channels: int, kernel_size: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2, groups=groups)


class SpadeNorm(nn.Module):
    """Inception SPADE norm: (1 + γ)·x̂ + β with x̂ the parameter-free norm of x, and γ, β read from S at every pixel.

    γ and β are the two halves of the channels of Σ branches(S). Without branches both are 0.
    """

    def __init__(self, channels: int, block: str, architecture: InceptionSpadeArchitecture) -> None:
        super().__init__()
        self._architecture = architecture
        self.fuses = False
        norm = architecture.norm
        tracks = architecture.spade_norm_tracks
        self.param_free_norm = make_norm(
            norm.model_copy(update={"kind": architecture.spade_norm, "track_running_stats": tracks}),
            channels,
            affine=False,
        )
        self.res_ops = nn.ModuleList()
        self.dw_ops = nn.ModuleList()
        for branch in existing_branches(architecture.blocks[block].spade, architecture.kernel_sizes, prefix=""):
            if branch.kind == "res":
                self.res_ops.append(self._residual_branch(2 * channels, branch))
            else:
                self.dw_ops.append(self._depthwise_branch(2 * channels, branch))

    def _residual_branch(self, out_channels: int, branch: Branch) -> nn.Sequential:
        hidden, k = branch.hidden_channels, branch.kernel_size
        return nn.Sequential(
            self._hidden(_same_size_convolution(self._architecture.semantic_channels, hidden, k)),
            _same_size_convolution(hidden, out_channels, k),
        )

    def _depthwise_branch(self, out_channels: int, branch: Branch) -> nn.Sequential:
        hidden, k = branch.hidden_channels, branch.kernel_size
        return nn.Sequential(
            self._hidden(_same_size_convolution(self._architecture.semantic_channels, hidden, 1)),
            self._hidden(_same_size_convolution(hidden, hidden, k, groups=hidden)),
            _same_size_convolution(hidden, out_channels, 1),
        )

    def _hidden(self, convolution: nn.Conv2d) -> nn.Sequential:
        norm = make_norm(self._architecture.norm, convolution.out_channels)
        activation = make_activation("relu", after=self._architecture.norm.kind)
        return nn.Sequential(OrderedDict(conv=convolution, norm=norm, activation=activation))

    def forward(self, x: Tensor, semantics: Tensor) -> Tensor:
        """Normalises and modulates.

        Args:
            x: [N, C, H, W].
            semantics: S, [N, semantic_channels, H', W']; resized (nearest) to H x W.

        Returns:
            [N, C, H, W].
        """
        normalised = self.param_free_norm(x)
        if not len(self.res_ops) + len(self.dw_ops):
            return normalised
        resized = functional.interpolate(semantics, size=x.shape[-2:], mode="nearest")
        scale, shift = _summed(self, resized).chunk(2, dim=1)
        return normalised * (1 + scale) + shift


class SpadeInceptionBlock(nn.Module):
    """y = shortcut(x) + Σ branches(act(SPADE(x, S))); without branches y = shortcut(x)."""

    def __init__(self, name: str, architecture: InceptionSpadeArchitecture) -> None:
        super().__init__()
        self._architecture = architecture
        self.fuses = False
        in_channels, out_channels = architecture.block_widths[name]
        branches = architecture.blocks[name].branches
        self.spade = None if branches.vanished else SpadeNorm(in_channels, name, architecture)
        self.activation = make_activation(architecture.activation, after=architecture.spade_norm)
        self.res_ops = nn.ModuleList()
        self.dw_ops = nn.ModuleList()
        for branch in existing_branches(branches, architecture.kernel_sizes, prefix=""):
            if branch.kind == "res":
                self.res_ops.append(self._residual_branch(in_channels, out_channels, branch))
            else:
                self.dw_ops.append(self._depthwise_branch(in_channels, out_channels, branch))
        self.shortcut = nn.Identity() if in_channels == out_channels else self._shortcut(in_channels, out_channels)

    def _residual_branch(self, in_channels: int, out_channels: int, branch: Branch) -> nn.Sequential:
        hidden, k = branch.hidden_channels, branch.kernel_size
        return nn.Sequential(
            self._hidden(_same_size_convolution(in_channels, hidden, k), affine=self._architecture.norm.affine),
            self._last(_same_size_convolution(hidden, out_channels, k)),
        )

    def _depthwise_branch(self, in_channels: int, out_channels: int, branch: Branch) -> nn.Sequential:
        hidden, k = branch.hidden_channels, branch.kernel_size
        return nn.Sequential(
            self._hidden(_same_size_convolution(in_channels, hidden, 1), affine=self._architecture.norm.affine),
            self._hidden(_same_size_convolution(hidden, hidden, k, groups=hidden), affine=False),
            self._last(_same_size_convolution(hidden, out_channels, 1)),
        )

    def _shortcut(self, in_channels: int, out_channels: int) -> nn.Sequential:
        convolution = nn.Conv2d(in_channels, out_channels, kernel_size=1, bias=False)
        norm = make_norm(self._architecture.norm, in_channels, affine=True)
        return nn.Sequential(norm, nn.Sequential(OrderedDict(conv=self._spectral(convolution))))

    def _hidden(self, convolution: nn.Conv2d, *, affine: bool) -> nn.Sequential:
        norm = make_norm(self._architecture.norm, convolution.out_channels, affine=affine)
        activation = make_activation(self._architecture.activation, after=self._architecture.norm.kind)
        return nn.Sequential(OrderedDict(conv=self._spectral(convolution), norm=norm, activation=activation))

    def _last(self, convolution: nn.Conv2d) -> nn.Sequential:
        return nn.Sequential(
            OrderedDict(dropout=nn.Dropout(self._architecture.dropout), conv=self._spectral(convolution))
        )

    def _spectral(self, convolution: nn.Conv2d) -> nn.Conv2d:
        return spectral_norm(convolution) if self._architecture.spectral else convolution

    def forward(self, x: Tensor, semantics: Tensor) -> Tensor:
        """Maps features [N, C_in, H, W] and S [N, semantic_channels, H', W'] to [N, C_out, H, W]."""
        shortcut = self.shortcut(x)
        if self.spade is None:
            return shortcut
        modulated = self.activation(self.spade(x, semantics))
        return shortcut + _summed(self, modulated)


def _summed(parent: SpadeNorm | SpadeInceptionBlock, x: Tensor) -> Tensor:
    """Returns the sum of the branches of a SPADE norm or block, fused if it fuses them."""
    if not parent.fuses:
        return sum_of_branches(x, parent.res_ops, parent.dw_ops)
    layers = []
    for branch in (*parent.res_ops, *parent.dw_ops):
        hidden, *depthwise, last = branch.children()
        in_block = isinstance(last, nn.Sequential)
        layers.append(
            BranchLayers.of(
                hidden,
                depthwise=depthwise[0] if depthwise else None,
                dropout=last[0] if in_block else None,
                out=last[1] if in_block else last,
            )
        )
    return sum_together(x, layers)


class InceptionSpadeGenerator(Generator):
    """Grows an image from S at a small size, by SPADE blocks that see S at every size.

    If the architecture has spectral norm, it sits on the convolutions of the blocks (their branches and shortcuts), not
    on those that read S.
    """

    def __init__(self, architecture: InceptionSpadeArchitecture) -> None:
        super().__init__(architecture)
        self._latent_size = architecture.latent_size
        self._upsampled_before = {name: name in architecture.upsampled_before for name in architecture.blocks}
        width = 16 * architecture.base_channels
        self.fc = _same_size_convolution(architecture.semantic_channels, width, 3)
        first_norm = NormConfig(
            kind="syncbatch",
            affine=True,
            track_running_stats=True,
            momentum=architecture.norm.momentum,
            epsilon=architecture.norm.epsilon,
        )
        self.fc_norm = make_norm(first_norm, width)
        for name, (_, out_channels) in architecture.block_widths.items():
            self.add_module(name, SpadeInceptionBlock(name, architecture))
            width = out_channels
        self.conv_img = _same_size_convolution(width, architecture.out_channels, 3)

    @property
    def segments(self) -> tuple[str, ...]:
        """Every block."""
        return tuple(self._upsampled_before)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor | tuple[Tensor, dict[str, Tensor]]:
        """Paints label maps.

        Args:
            x: S, [N, semantic_channels, H, W]. It is resized (nearest), so its size has no effect on that of the
                images; both agree if H x W is the architecture's `image_size`.
            return_features: Whether to return the outputs of `distillation_layers` as well.

        Returns:
            The images [N, out_channels, *image_size] in [-1, 1]; with `return_features` also the features by name,
            in order, each [N, C, h, w] of its own size.
        """
        semantics = x
        x = functional.interpolate(semantics, size=self._latent_size, mode="nearest")
        x = self.fc_norm(self.fc(x))
        features = {}
        for name, upsampled_before in self._upsampled_before.items():
            if upsampled_before:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
            x = self.get_submodule(name)(x, semantics)
            if name in self.distillation_layers:
                features[name] = x
        image = self.conv_img(functional.leaky_relu(x, FINAL_NEGATIVE_SLOPE)).tanh()
        return (image, features) if return_features else image
