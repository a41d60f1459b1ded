"""DCD, discriminator-cooperated feature map distillation (Hu et al., CVPR 2023, arXiv:2212.14169).

The discriminator D of the teacher is a transformation: features that look alike to it should be alike. Connectors c,
1x1 convolutions with batch norm and ReLU, turn the features F of student and teacher into inputs of D:

    L = Σ_layers ‖D'(c_T(F_T)) − D'(c_S(F_S))‖₁

D' are D's features; the gradient flows to the student and to both connectors, but not to D, which is trained on images
alone. In the paper's collaborative adversarial training D starts from scratch and is trained together with the student:
`distill.discriminator: fresh`.

Differs: D' are the features after every stage of D that features of this size fit into, and the loss is their mean; the
published implementation takes a single layer. The paper's VGG losses on images are no part of it.
"""

from collections.abc import Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.catlib.config.distillers import DiscriminatorCooperatedConfig
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.objectives.frozen_teacher import Features
from components.catlib.objectives.optimisation import frozen
from components.catlib.objectives.precision import at_least_float32


class FeatureConnectors(nn.Module):
    """Turns the features of student and teacher into what a discriminator can judge: one connector each per layer."""

    def __init__(self, student: Generator, teacher: Generator, judged_channels: int) -> None:
        """Makes the connectors with torch's default initialisation.

        Args:
            student: The generator that learns.
            teacher: The generator that it learns from.
            judged_channels: Input channels of the discriminator.
        """
        super().__init__()
        self._layers = student.distillation_layers
        self.student, self.teacher = (
            nn.ModuleList(
                _connector(network.architecture.feature_widths[name], judged_channels) for name in self._layers
            )
            for network in (student, teacher)
        )

    def forward(self, student: Features, teacher: Features) -> dict[str, tuple[Tensor, Tensor]]:
        """Returns by layer what the student's and the teacher's features become, each [N, judged_channels, H, W]."""
        return {
            name: (ours(at_least_float32(student[name])), theirs(at_least_float32(teacher[name])))
            for name, ours, theirs in zip(self._layers, self.student, self.teacher, strict=True)
        }


def _connector(channels: int, judged_channels: int) -> nn.Sequential:
    """Makes a connector; its norm keeps both sides from shrinking to nothing, which would end the loss."""
    return nn.Sequential(
        nn.Conv2d(channels, judged_channels, kernel_size=1, bias=False),
        nn.BatchNorm2d(judged_channels, track_running_stats=False),
        nn.ReLU(),
    )


class DiscriminatorCooperation:
    """Compares features by what the discriminator makes of them."""

    def __init__(self, _config: DiscriminatorCooperatedConfig, networks: Mapping[str, nn.Module]) -> None:
        """Takes its networks.

        Args:
            networks: "connectors" and "discriminator", as prepared for training.
        """
        self._connectors, self._discriminator = networks["connectors"], networks["discriminator"]

    @staticmethod
    def own_networks(student: Generator, teacher: Generator, discriminator: Discriminator) -> dict[str, nn.Module]:
        """Returns the networks that are trained beside the student: "connectors"."""
        return {"connectors": FeatureConnectors(student, teacher, discriminator.architecture.in_channels)}

    def compare(self, student: Features, teacher: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns for every layer the loss, and the figure that the log shows; both are the distance."""
        pairs = self._connectors(student, teacher)
        with frozen(self._discriminator):
            distances = {name: judged_distance(self._discriminator, *pair) for name, pair in pairs.items()}
        return distances, {name: distance.detach() for name, distance in distances.items()}


def judged_distance(discriminator: nn.Module, first: Tensor, second: Tensor) -> Tensor:
    """Returns the mean absolute difference of the discriminator's features, a mean over its stages.

    Args:
        discriminator: Has `stages`.
        first: [N, its in_channels, H, W].
        second: The same shape.
    """
    distances = []
    count, together = len(first), torch.cat([first, second])
    for stage in cast("list[nn.Module]", discriminator.stages):
        if distances and not _fits(stage, together):
            break
        together = stage(together)
        distances.append(functional.l1_loss(together[:count], together[count:]))
    return torch.stack(distances).mean()


def _fits(stage: nn.Module, x: Tensor) -> bool:
    """Returns whether a stage leaves more than one value per channel, as its norm needs."""
    convolution = next(module for module in stage.modules() if isinstance(module, nn.Conv2d))
    sides = [
        (side + 2 * int(padding) - kernel) // stride + 1
        for side, kernel, stride, padding in zip(
            x.shape[-2:], convolution.kernel_size, convolution.stride, convolution.padding, strict=True
        )
    ]
    return min(sides) >= 1 and sides[0] * sides[1] > 1
