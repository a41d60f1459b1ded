"""How far a generated image is from the one it should be, pixel by pixel or feature by feature (method section 3)."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional

from components.catlib.config.losses import ReconstructionConfig
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.precision import at_least_float32

ReconstructionLoss = Callable[[Tensor, Tensor], Tensor]
"""Generated and wanted images, each [N, C, H, W] in [-1, 1], to a scalar."""


def reconstruction_loss(config: ReconstructionConfig, perceptual: PerceptualLoss | None) -> ReconstructionLoss:
    """Returns the loss that a recipe asks for: L1, L2 (mean squared), smooth L1 (quadratic below 1) or VGG19.

    Args:
        config: `reconstruction` of a section.
        perceptual: Where the kind is `vgg` the loss with VGG19's weights; the other kinds do without.
    """
    match config.kind:
        case "l1":
            return l1_loss
        case "l2":
            return l2_loss
        case "smooth_l1":
            return smooth_l1_loss
        case "vgg":
            assert perceptual is not None, "read when the objective is built"
            return perceptual


def l1_loss(image: Tensor, target: Tensor) -> Tensor:
    """Returns the mean absolute difference, at least float32."""
    return functional.l1_loss(at_least_float32(image), at_least_float32(target))


def l2_loss(image: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared difference, at least float32."""
    return functional.mse_loss(at_least_float32(image), at_least_float32(target))


def smooth_l1_loss(image: Tensor, target: Tensor) -> Tensor:
    """Returns the mean of ½d² where the difference |d| is below 1 and of |d| − ½ elsewhere, at least float32."""
    return functional.smooth_l1_loss(at_least_float32(image), at_least_float32(target))


def feature_matching_loss(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Returns how differently a multi-scale discriminator sees generated and real images.

    Args:
        fake: Per scale the discriminator's features for generated images, logits last.
        real: The same for real images; no gradient flows there.

    Returns:
        A scalar: the mean absolute difference of every feature but the logits, summed over features, averaged over
        scales.
    """
    scales = [
        torch.stack([l1_loss(ours, theirs.detach()) for ours, theirs in zip(fakes[:-1], reals[:-1], strict=True)]).sum()
        for fakes, reals in zip(fake, real, strict=True)
    ]
    return torch.stack(scales).mean()
