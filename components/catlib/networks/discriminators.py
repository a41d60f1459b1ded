"""Discriminators: PatchGAN, PixelGAN and the multi-scale PatchGANs of SPADE (method section 2).

The names of modules are those of published checkpoints.
"""

from collections import OrderedDict
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import spectral_norm

from components.catlib.networks.discriminator_architecture import (
    DiscriminatorArchitecture,
    MultiscaleArchitecture,
    PatchArchitecture,
    PixelArchitecture,
)
from components.catlib.networks.modules import InstanceNorm, make_activation, make_norm

NEGATIVE_SLOPE = 0.2
"""Negative slope of every leaky ReLU in a discriminator."""

MULTISCALE_MAX_CHANNELS = 512
"""Channels of a multi-scale discriminator stop doubling here."""


class PatchDiscriminator(nn.Module):
    """Judges overlapping patches: 70x70 pixels each when it has three strided layers.

    Attributes:
        architecture: The architecture that it was built from.
    """

    def __init__(self, architecture: PatchArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        widths = [architecture.base_channels * min(2**layer, 8) for layer in range(architecture.num_layers + 1)]
        middle_bias = architecture.norm.kind == "instance"
        layers: list[nn.Module] = [
            nn.Conv2d(architecture.in_channels, widths[0], kernel_size=4, stride=2, padding=1),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
        ]
        for layer in range(1, len(widths)):
            stride = 2 if layer < architecture.num_layers else 1
            layers += [
                nn.Conv2d(widths[layer - 1], widths[layer], kernel_size=4, stride=stride, padding=1, bias=middle_bias),
                make_norm(architecture.norm, widths[layer]),
                make_activation("leaky_relu", after=architecture.norm.kind, slope=NEGATIVE_SLOPE),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, kernel_size=4, stride=1, padding=1))
        self.model = nn.Sequential(*layers)

    @property
    def stages(self) -> list[nn.Module]:
        """What makes its features, one after the other: the layers up to each activation; the logits are not part."""
        return stages_of(self.model)

    def forward(self, x: Tensor) -> Tensor:
        """Returns one logit per patch.

        Args:
            x: [N, in_channels, H, W], the image or the condition and the image, in [-1, 1].

        Returns:
            [N, 1, H', W'] logits; higher means more real.
        """
        return self.model(x)


class PixelDiscriminator(nn.Module):
    """Judges every pixel on its own, by 1x1 convolutions.

    Attributes:
        architecture: The architecture that it was built from.
    """

    def __init__(self, architecture: PixelArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        width = architecture.base_channels
        bias = architecture.norm.kind == "instance"
        self.net = nn.Sequential(
            nn.Conv2d(architecture.in_channels, width, kernel_size=1),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
            nn.Conv2d(width, 2 * width, kernel_size=1, bias=bias),
            make_norm(architecture.norm, 2 * width),
            make_activation("leaky_relu", after=architecture.norm.kind, slope=NEGATIVE_SLOPE),
            nn.Conv2d(2 * width, 1, kernel_size=1, bias=bias),
        )

    @property
    def stages(self) -> list[nn.Module]:
        """What makes its features, one after the other: the layers up to each activation; the logits are not part."""
        return stages_of(self.net)

    def forward(self, x: Tensor) -> Tensor:
        """Returns one logit per pixel.

        Args:
            x: [N, in_channels, H, W], the image or the condition and the image, in [-1, 1].

        Returns:
            [N, 1, H, W] logits; higher means more real.
        """
        return self.net(x)


class SpectralPatchDiscriminator(nn.Sequential):
    """One scale of the multi-scale discriminator: a PatchGAN with spectral norm, then instance norm, in the middle.

    Its children `model0`, `model1`, … each end a feature; the last one makes the logits.
    """

    def __init__(self, architecture: MultiscaleArchitecture) -> None:
        width = architecture.base_channels
        stages = OrderedDict[str, nn.Module]()
        stages["model0"] = nn.Sequential(
            nn.Conv2d(architecture.in_channels, width, kernel_size=4, stride=2, padding=2),
            nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True),
        )
        for layer in range(1, architecture.num_layers):
            wider = min(2 * width, MULTISCALE_MAX_CHANNELS)
            stride = 2 if layer < architecture.num_layers - 1 else 1
            convolution = nn.Conv2d(width, wider, kernel_size=4, stride=stride, padding=2, bias=False)
            stages[f"model{layer}"] = nn.Sequential(
                nn.Sequential(spectral_norm(convolution), InstanceNorm(wider, affine=False)),
                make_activation("leaky_relu", after="instance", slope=NEGATIVE_SLOPE),
            )
            width = wider
        stages[f"model{architecture.num_layers}"] = nn.Sequential(
            nn.Conv2d(width, 1, kernel_size=4, stride=1, padding=2)
        )
        super().__init__(stages)

    def features(self, x: Tensor) -> list[Tensor]:
        """Returns the output of every stage in order, each [N, C, H', W']; the last one holds the logits, C = 1.

        Args:
            x: [N, in_channels, H, W], semantics and image concatenated.
        """
        outputs = []
        for stage in self:
            x = stage(x)
            outputs.append(x)
        return outputs


class MultiscaleDiscriminator(nn.Module):
    """PatchGANs that look at the input at halving resolutions (SPADE).

    In train mode each forward pass runs one power iteration of the spectral norms, which changes their `u` and `v`.

    Attributes:
        architecture: The architecture that it was built from.
    """

    def __init__(self, architecture: MultiscaleArchitecture) -> None:
        super().__init__()
        self.architecture = architecture
        for scale in range(architecture.num_scales):
            self.add_module(f"discriminator_{scale}", SpectralPatchDiscriminator(architecture))

    @property
    def stages(self) -> list[nn.Module]:
        """What makes the features of the full resolution, one after the other; the logits are not part."""
        finest = next(self.children())
        assert isinstance(finest, SpectralPatchDiscriminator)
        return list(finest)[:-1]

    def forward(self, x: Tensor) -> list[list[Tensor]]:
        """Returns every intermediate feature at every scale.

        Args:
            x: [N, in_channels, H, W], semantics and image concatenated.

        Returns:
            Per scale, full resolution first: the outputs of all stages; the last is [N, 1, H', W'] logits.
        """
        outputs = []
        for index, discriminator in enumerate(self.children()):
            assert isinstance(discriminator, SpectralPatchDiscriminator)
            if index > 0:
                x = functional.avg_pool2d(x, kernel_size=3, stride=2, padding=1, count_include_pad=False)
            outputs.append(discriminator.features(x))
        return outputs


def stages_of(layers: nn.Sequential) -> list[nn.Module]:
    """Returns the layers up to and including each activation, as sequences that share them."""
    ends = [place for place, layer in enumerate(layers, 1) if isinstance(layer, nn.LeakyReLU)]
    return [layers[start:end] for start, end in pairwise((0, *ends))]


Discriminator = PatchDiscriminator | PixelDiscriminator | MultiscaleDiscriminator


def build_discriminator(architecture: DiscriminatorArchitecture) -> Discriminator:
    """Builds a discriminator with torch's default initialisation, on the current default device."""
    match architecture:
        case PatchArchitecture():
            return PatchDiscriminator(architecture)
        case PixelArchitecture():
            return PixelDiscriminator(architecture)
        case MultiscaleArchitecture():
            return MultiscaleDiscriminator(architecture)
