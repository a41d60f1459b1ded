"""The networks as PyTorch's tutorials would write them: every branch on its own, no layer that does two things.

The modules have the names of the pipeline's, so that weights move over by `load_state_dict`; nothing else is shared.
"""

from collections import OrderedDict

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from components.catlib.config import NormConfig
from components.catlib.networks.discriminator_architecture import MultiscaleArchitecture, PatchArchitecture
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.layers import BranchChannels
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture


def norm(config: NormConfig, channels: int, affine: bool | None = None) -> nn.Module:
    kinds = {"instance": nn.InstanceNorm2d, "batch": nn.BatchNorm2d, "syncbatch": nn.SyncBatchNorm}
    return kinds[config.kind](
        channels,
        eps=config.epsilon,
        momentum=config.momentum,
        affine=config.affine if affine is None else affine,
        track_running_stats=config.track_running_stats,
    )


def activation(name: str) -> nn.Module:
    return nn.ReLU(inplace=True) if name == "relu" else nn.LeakyReLU(0.01, inplace=True)


def existing(branches: BranchChannels, kernel_sizes: tuple[int, ...], kind: str) -> list[tuple[int, int]]:
    """Hidden channels and kernel size of every branch of a kind that exists."""
    hidden = branches.res if kind == "res" else branches.dw
    return [(channels, size) for channels, size in zip(hidden, kernel_sizes, strict=True) if channels]


class PlainInceptionBlock(nn.Module):
    def __init__(self, width: int, branches: BranchChannels, wanted: InceptionArchitecture) -> None:
        super().__init__()
        bias = wanted.norm.kind == "instance"

        def convolution(ins: int, outs: int, size: int, groups: int = 1) -> nn.Conv2d:
            mode = "zeros" if wanted.padding == "zero" or size == 1 else wanted.padding
            return nn.Conv2d(ins, outs, size, padding=size // 2, padding_mode=mode, groups=groups, bias=bias)

        def step(ins: int, outs: int, size: int, groups: int = 1) -> nn.Sequential:
            layers = convolution(ins, outs, size, groups), norm(wanted.norm, outs), activation(wanted.activation)
            return nn.Sequential(*layers)

        def numbered(**layers: nn.Module) -> nn.Sequential:
            return nn.Sequential(OrderedDict((name.removeprefix("at_"), layer) for name, layer in layers.items()))

        dropout = wanted.dropout
        self.res_ops = nn.ModuleList(
            numbered(at_1=step(width, h, k), at_2=nn.Dropout(dropout), at_4=convolution(h, width, k))
            for h, k in existing(branches, wanted.kernel_sizes, "res")
        )
        self.dw_ops = nn.ModuleList(
            numbered(
                at_0=step(width, h, 1), at_2=step(h, h, k, h), at_3=nn.Dropout(dropout), at_4=convolution(h, width, 1)
            )
            for h, k in existing(branches, wanted.kernel_sizes, "dw")
        )
        self.pw_bn = None if branches.vanished else norm(wanted.norm, width)

    def forward(self, x: Tensor) -> Tensor:
        if self.pw_bn is None:
            return x
        return x + self.pw_bn(sum(branch(x) for ops in (self.res_ops, self.dw_ops) for branch in ops))


class PlainInception(nn.Module):
    def __init__(self, wanted: InceptionArchitecture) -> None:
        super().__init__()
        bias, (a, b, c), (d, e) = wanted.norm.kind == "instance", wanted.down, wanted.up

        def after(layer: nn.Module, channels: int) -> tuple[nn.Module, ...]:
            return layer, norm(wanted.norm, channels), nn.ReLU(inplace=True)

        def up(ins: int, outs: int) -> tuple[nn.Module, ...]:
            layer = nn.ConvTranspose2d(ins, outs, 3, stride=2, padding=1, output_padding=1, bias=bias)
            return after(layer, outs)

        self.down_sampling = nn.Sequential(
            nn.ReflectionPad2d(3),
            *after(nn.Conv2d(wanted.in_channels, a, 7, bias=bias), a),
            *after(nn.Conv2d(a, b, 3, stride=2, padding=1, bias=bias), b),
            *after(nn.Conv2d(b, c, 3, stride=2, padding=1, bias=bias), c),
        )
        self.features = nn.Sequential(*(PlainInceptionBlock(c, block, wanted) for block in wanted.blocks))
        self.up_sampling = nn.Sequential(
            *up(c, d), *up(d, e), nn.ReflectionPad2d(3), nn.Conv2d(e, wanted.out_channels, 7), nn.Tanh()
        )
        self.wanted = list(wanted.feature_widths)

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The images, and the features that distillation compares."""
        x = self.down_sampling(x)
        features = {"down_sampling.9": x}
        for number, block in enumerate(self.features):
            features[f"features.{number}"] = x = block(x)
        return self.up_sampling(x), [features[name] for name in self.wanted]


class PlainSpadeNorm(nn.Module):
    def __init__(self, channels: int, branches: BranchChannels, wanted: InceptionSpadeArchitecture) -> None:
        super().__init__()
        tracks = wanted.spade_norm != "instance"
        free = wanted.norm.model_copy(update={"kind": wanted.spade_norm, "track_running_stats": tracks})
        self.param_free_norm = norm(free, channels, affine=False)
        semantic = wanted.semantic_channels

        def convolution(ins: int, outs: int, size: int, groups: int = 1) -> nn.Conv2d:
            return nn.Conv2d(ins, outs, size, padding=size // 2, groups=groups)

        def step(ins: int, outs: int, size: int, groups: int = 1) -> nn.Sequential:
            layers = {"conv": convolution(ins, outs, size, groups), "norm": norm(wanted.norm, outs), "act": nn.ReLU()}
            return nn.Sequential(OrderedDict(layers))

        self.res_ops = nn.ModuleList(
            nn.Sequential(step(semantic, h, k), convolution(h, 2 * channels, k))
            for h, k in existing(branches, wanted.kernel_sizes, "res")
        )
        self.dw_ops = nn.ModuleList(
            nn.Sequential(step(semantic, h, 1), step(h, h, k, h), convolution(h, 2 * channels, 1))
            for h, k in existing(branches, wanted.kernel_sizes, "dw")
        )

    def forward(self, x: Tensor, semantics: Tensor) -> Tensor:
        normalised = self.param_free_norm(x)
        branches = [*self.res_ops, *self.dw_ops]
        if not branches:
            return normalised
        resized = functional.interpolate(semantics, size=x.shape[-2:], mode="nearest")
        scale, shift = sum(branch(resized) for branch in branches).chunk(2, dim=1)
        return normalised * (1 + scale) + shift


class PlainSpadeBlock(nn.Module):
    def __init__(self, name: str, wanted: InceptionSpadeArchitecture) -> None:
        super().__init__()
        ins, outs = wanted.block_widths[name]
        block = wanted.blocks[name]

        def spectral(layer: nn.Conv2d) -> nn.Conv2d:
            return spectral_norm(layer) if wanted.spectral else layer

        def step(before: int, after: int, size: int, *, affine: bool, groups: int = 1) -> nn.Sequential:
            layer = spectral(nn.Conv2d(before, after, size, padding=size // 2, groups=groups))
            layers = {"conv": layer, "norm": norm(wanted.norm, after, affine), "act": activation(wanted.activation)}
            return nn.Sequential(OrderedDict(layers))

        def last(before: int, size: int) -> nn.Sequential:
            layer = spectral(nn.Conv2d(before, outs, size, padding=size // 2))
            return nn.Sequential(OrderedDict(dropout=nn.Dropout(wanted.dropout), conv=layer))

        affine, sizes = wanted.norm.affine, wanted.kernel_sizes
        self.spade = None if block.branches.vanished else PlainSpadeNorm(ins, block.spade, wanted)
        self.activation = activation(wanted.activation)
        self.res_ops = nn.ModuleList(
            nn.Sequential(step(ins, h, k, affine=affine), last(h, k)) for h, k in existing(block.branches, sizes, "res")
        )
        self.dw_ops = nn.ModuleList(
            nn.Sequential(step(ins, h, 1, affine=affine), step(h, h, k, affine=False, groups=h), last(h, 1))
            for h, k in existing(block.branches, sizes, "dw")
        )
        learned = nn.Sequential(
            norm(wanted.norm, ins, affine=True),
            nn.Sequential(OrderedDict(conv=spectral(nn.Conv2d(ins, outs, 1, bias=False)))),
        )
        self.shortcut = nn.Identity() if ins == outs else learned

    def forward(self, x: Tensor, semantics: Tensor) -> Tensor:
        shortcut = self.shortcut(x)
        if self.spade is None:
            return shortcut
        modulated = self.activation(self.spade(x, semantics))
        return shortcut + sum(branch(modulated) for branch in (*self.res_ops, *self.dw_ops))


class PlainSpade(nn.Module):
    def __init__(self, wanted: InceptionSpadeArchitecture) -> None:
        super().__init__()
        self.architecture, width = wanted, 16 * wanted.base_channels
        self.fc = nn.Conv2d(wanted.semantic_channels, width, 3, padding=1)
        self.fc_norm = nn.SyncBatchNorm(width, eps=wanted.norm.epsilon, momentum=wanted.norm.momentum)
        for name in wanted.blocks:
            self.add_module(name, PlainSpadeBlock(name, wanted))
        self.conv_img = nn.Conv2d(wanted.block_widths[name][1], wanted.out_channels, 3, padding=1)

    def forward(self, semantics: Tensor) -> tuple[Tensor, list[Tensor]]:
        wanted, features = self.architecture, {}
        x = functional.interpolate(semantics, size=wanted.latent_size, mode="nearest")
        x = self.fc_norm(self.fc(x))
        for name in wanted.blocks:
            if name in wanted.upsampled_before:
                x = functional.interpolate(x, scale_factor=2, mode="nearest")
            features[name] = x = self.get_submodule(name)(x, semantics)
        image = torch.tanh(self.conv_img(functional.leaky_relu(x, 0.2)))
        return image, [features[name] for name in wanted.feature_widths]


class PlainPatch(nn.Module):
    def __init__(self, wanted: PatchArchitecture) -> None:
        super().__init__()
        widths = [wanted.base_channels * min(2**layer, 8) for layer in range(wanted.num_layers + 1)]
        layers: list[nn.Module] = [nn.Conv2d(wanted.in_channels, widths[0], 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        for layer in range(1, len(widths)):
            stride, bias = 2 if layer < wanted.num_layers else 1, wanted.norm.kind == "instance"
            layers += [nn.Conv2d(widths[layer - 1], widths[layer], 4, stride, 1, bias=bias)]
            layers += [norm(wanted.norm, widths[layer]), nn.LeakyReLU(0.2, inplace=True)]
        self.model = nn.Sequential(*layers, nn.Conv2d(widths[-1], 1, 4, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class PlainMultiscale(nn.Module):
    def __init__(self, wanted: MultiscaleArchitecture) -> None:
        super().__init__()
        for scale in range(wanted.num_scales):
            width = wanted.base_channels
            stages: dict[str, nn.Module] = {
                "model0": nn.Sequential(nn.Conv2d(wanted.in_channels, width, 4, 2, 2), nn.LeakyReLU(0.2, inplace=True))
            }
            for layer in range(1, wanted.num_layers):
                wider, stride = min(2 * width, 512), 2 if layer < wanted.num_layers - 1 else 1
                judged = spectral_norm(nn.Conv2d(width, wider, 4, stride, 2, bias=False))
                middle = nn.Sequential(judged, nn.InstanceNorm2d(wider, affine=False))
                stages[f"model{layer}"] = nn.Sequential(middle, nn.LeakyReLU(0.2, inplace=True))
                width = wider
            stages[f"model{wanted.num_layers}"] = nn.Sequential(nn.Conv2d(width, 1, 4, 1, 2))
            self.add_module(f"discriminator_{scale}", nn.Sequential(OrderedDict(stages)))

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        found = []
        for number, stages in enumerate(self.children()):
            x = functional.avg_pool2d(x, 3, 2, 1, count_include_pad=False) if number else x
            outputs = [x]
            for stage in stages.children():
                outputs.append(stage(outputs[-1]))
            found.append(outputs[1:])
        return found


def plain_generator(architecture: InceptionArchitecture | InceptionSpadeArchitecture) -> nn.Module:
    return (PlainInception if isinstance(architecture, InceptionArchitecture) else PlainSpade)(architecture)


def plain_discriminator(architecture: PatchArchitecture | MultiscaleArchitecture) -> nn.Module:
    return (PlainPatch if isinstance(architecture, PatchArchitecture) else PlainMultiscale)(architecture)
