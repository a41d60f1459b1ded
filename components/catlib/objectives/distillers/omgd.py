"""OMGD, online multi-granularity distillation (Ren et al., ICCV 2021): a student without a discriminator.

The student learns from its teacher alone. Of the images p_T and p_S:

    L_KD = λ_SSIM (1 − SSIM(p_T, p_S)) + λ_feature L_feature(p_T, p_S) + λ_TV L_TV(p_S)

L_feature compares VGG19's features and needs its weights. L_TV is the mean squared difference of neighbouring pixels.
And of the features, with w the mean of a channel over an image and the student's channels adapted by a 1x1 convolution:

    L_CD = 1/n Σ_layers Σ_channels (w_T − w_S)² / c

Online, the teacher is trained on with a discriminator while the student learns from it.

Differs: the sum over layers is not divided by their number n; a weight per layer does that. There is one teacher, the
pruned student's own, and it starts trained. The paper's second, deeper teacher and its style loss are left out.

Shape suffixes: N batch, C channels, H height, W width.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

from components.catlib.config.distillers import OmgdConfig
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.objectives.distillers.mse import FeatureAdaptors
from components.catlib.objectives.frozen_teacher import Features
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.precision import at_least_float32

WINDOW_SIDE, WINDOW_DEVIATION = 11, 1.5
"""The Gaussian window of SSIM, in pixels (Wang et al. 2004)."""

STABILISERS = (0.02**2, 0.06**2)
"""(0.01 · range)² and (0.03 · range)², where images range from -1 to 1."""


class ChannelDistillation:
    """Compares features by the means of their channels."""

    def __init__(self, config: OmgdConfig, networks: Mapping[str, nn.Module]) -> None:
        """Takes its weight and its adaptors.

        Args:
            config: The weight of the distance of channels.
            networks: What `own_networks` returned, as prepared for training.
        """
        self._weight, self._adaptors = config.channel_weight, networks["adaptors"]

    @staticmethod
    def own_networks(student: Generator, teacher: Generator, discriminator: Discriminator) -> dict[str, nn.Module]:
        """Returns the networks that are trained beside the student: "adaptors"."""
        return {"adaptors": FeatureAdaptors(student, teacher)}

    def compare(self, student: Features, teacher: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns for every layer the weighted loss, and the figure that the log shows, which is not weighted."""
        adapted = self._adaptors({name: at_least_float32(features) for name, features in student.items()})
        distances = {name: channel_distance(adapted[name], wanted) for name, wanted in teacher.items()}
        losses = {name: self._weight * distance for name, distance in distances.items()}
        return losses, {name: distance.detach() for name, distance in distances.items()}


class OmgdOutputLoss:
    """Compares the student's images with its teacher's."""

    def __init__(self, config: OmgdConfig, perceptual: PerceptualLoss | None) -> None:
        """Takes the weights.

        Args:
            config: The weights of the parts.
            perceptual: The VGG19 loss; required if it has a weight.
        """
        assert perceptual is not None or config.perceptual.weight == 0, "the perceptual loss needs its network"
        self._config, self._perceptual = config, perceptual

    def __call__(self, image: Tensor, wanted: Tensor) -> Tensor:
        """Returns L_KD of the student's and teacher's images [N, C, H, W] in [-1, 1]: a scalar, at least float32."""
        config = self._config
        loss = config.ssim_weight * (1 - ssim(image, wanted)) + config.total_variation_weight * total_variation(image)
        if self._perceptual is not None and config.perceptual.weight > 0:
            loss = loss + config.perceptual.weight * self._perceptual(image, wanted)
        return loss


def channel_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """Returns the mean over images and channels of (w_T − w_S)², both [N, C, H, W]."""
    return (at_least_float32(student) - at_least_float32(teacher)).mean(dim=(2, 3)).square().mean()


def total_variation(image: Tensor) -> Tensor:
    """Returns the mean squared difference of vertical neighbours plus that of horizontal ones, of [N, C, H, W]."""
    image = at_least_float32(image)
    return image.diff(dim=2).square().mean() + image.diff(dim=3).square().mean()


def ssim(first: Tensor, second: Tensor) -> Tensor:
    """Returns the mean structural similarity of images [N, C, H, W] in [-1, 1], with gradient; 1 if they are equal.

    It is the mean over all windows that lie within the image, as the metric of that name computes it without gradient.
    The window of images with a side below 11 pixels is as wide as that side.
    """
    with torch.autocast(device_type=first.device.type, enabled=False):
        first, second = at_least_float32(first), at_least_float32(second)
        sides = [min(WINDOW_SIDE, side) for side in first.shape[-2:]]
        down, right = (_window(side, like=first) for side in sides)
        window = (down[:, None] * right[None, :])[None, None]

        def mean(values: Tensor) -> Tensor:
            return functional.conv2d(values.flatten(0, 1)[:, None], window)

        mean_first, mean_second = mean(first), mean(second)
        var_first = mean(first.square()) - mean_first.square()
        var_second = mean(second.square()) - mean_second.square()
        covariance = mean(first * second) - mean_first * mean_second
        of_means, of_deviations = STABILISERS
        similarity = (2 * mean_first * mean_second + of_means) * (2 * covariance + of_deviations)
        scale = (mean_first.square() + mean_second.square() + of_means) * (var_first + var_second + of_deviations)
        return (similarity / scale).mean()


def _window(side: int, *, like: Tensor) -> Tensor:
    places = torch.arange(side, dtype=like.dtype, device=like.device) - (side - 1) / 2
    weights = torch.exp(-places.square() / (2 * WINDOW_DEVIATION**2))
    return weights / weights.sum()
