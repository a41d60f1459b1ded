"""Distances between a generated image and its goal, by pixels or by features (method section 3)."""

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
        perceptual: The VGG19 loss; required for the kind `vgg`, unused by the other kinds.
    """
    match config.kind:
        case "l1":
            return l1_loss
        case "l2":
            return l2_loss
        case "smooth_l1":
            return smooth_l1_loss
        case "vgg":
            assert perceptual is not None, "the kind vgg needs the VGG19 loss"
            return perceptual


def l1_loss(image: Tensor, target: Tensor) -> Tensor:
    """Returns the mean absolute difference of two tensors of one shape: a scalar, at least float32."""
    return functional.l1_loss(at_least_float32(image), at_least_float32(target))


def l2_loss(image: Tensor, target: Tensor) -> Tensor:
    """Returns the mean squared difference of two tensors of one shape: a scalar, at least float32."""
    return functional.mse_loss(at_least_float32(image), at_least_float32(target))


def smooth_l1_loss(image: Tensor, target: Tensor) -> Tensor:
    """Returns the mean of ½d² where the difference |d| is below 1, else of |d| − ½: a scalar, at least float32."""
    return functional.smooth_l1_loss(at_least_float32(image), at_least_float32(target))


def feature_matching_loss(fake: list[list[Tensor]], real: list[list[Tensor]]) -> Tensor:
    """Returns how differently a multi-scale discriminator sees generated and real images.

    Args:
        fake: For every scale, the discriminator's features of generated images, each [N, C, H, W], logits last.
        real: The features of real images, the same shapes; they get no gradient.

    Returns:
        A scalar: the mean absolute difference of every feature but the logits, summed over features, averaged over
        scales.
    """
    scales = [
        torch.stack([l1_loss(ours, theirs.detach()) for ours, theirs in zip(fakes[:-1], reals[:-1], strict=True)]).sum()
        for fakes, reals in zip(fake, real, strict=True)
    ]
    return torch.stack(scales).mean()
