"""Adversarial objectives (method section 3): losses of discriminators and generators, computed from logits.

A discriminator returns a tensor of logits. One that looks at several scales returns every feature of every scale,
logits last, and its loss is the mean over the scales. Every loss is a scalar.

Shape suffixes: N batch, C channels, H height, W width.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from components.catlib.objectives.precision import at_least_float32

GanObjective = Literal["lsgan", "vanilla", "hinge", "wgangp"]

Judgement = Tensor | list[list[Tensor]]
"""A discriminator's answer: logits, or per scale all features with the logits last."""


def generator_loss(objective: GanObjective, judgement: Judgement) -> Tensor:
    """Returns how far the discriminator is from taking generated images for real ones.

    Args:
        objective: `lsgan`: MSE to 1; `vanilla`: cross entropy to 1; `hinge` and `wgangp`: −mean.
        judgement: The discriminator's answer to generated images.

    Returns:
        A scalar, at least float32. Differs: for several scales the published implementation's hinge loss has shape [1].
    """
    return _mean_over_scales(judgement, lambda logits: _generator_term(objective, logits))


def discriminator_loss(objective: GanObjective, judgement: Judgement, *, real: bool) -> Tensor:
    """Returns how far the discriminator is from judging right.

    Args:
        objective: `lsgan`: MSE to 1 (real) or 0 (generated); `vanilla`: cross entropy to the same; `hinge`:
            −mean min(0, ±p − 1); `wgangp`: ∓mean, to be used with `gradient_penalty`.
        judgement: The discriminator's answer.
        real: Whether it was shown real images.

    Returns:
        A scalar, at least float32.
    """
    return _mean_over_scales(judgement, lambda logits: _discriminator_term(objective, logits, real=real))


def gradient_penalty(discriminator: Callable[[Tensor], Judgement], real_NCHW: Tensor, fake_NCHW: Tensor) -> Tensor:
    """Returns how much the critic's slope differs from 1 between real and generated samples.

    Gulrajani et al. 2017, equation 3.

    The critic is what the `wgangp` losses average: the mean logit of a sample, over patches and scales. With a batch
    norm in the discriminator, samples influence each other and the penalty means little; instance norm is fine.

    Args:
        discriminator: Judges tensors like the other two arguments.
        real_NCHW: The discriminator's input for real images, condition included, [N, C, H, W].
        fake_NCHW: Its input for generated images, the same shape; they get no gradient.

    Returns:
        A scalar: the mean over samples of (‖∇ critic‖₂ − 1)².
    """
    share_N111 = torch.rand(real_NCHW.shape[0], 1, 1, 1, device=real_NCHW.device, dtype=real_NCHW.dtype)
    between_NCHW = torch.lerp(fake_NCHW.detach(), real_NCHW.detach(), share_N111).requires_grad_()
    scales = logits_per_scale(discriminator(between_NCHW))
    critic_N = torch.stack([logits.flatten(1).mean(dim=1) for logits in scales]).mean(dim=0)
    (slope_NCHW,) = torch.autograd.grad(critic_N.sum(), between_NCHW, create_graph=True)
    return (torch.linalg.vector_norm(at_least_float32(slope_NCHW).flatten(1), dim=1) - 1).square().mean()


def logits_per_scale(judgement: Judgement) -> list[Tensor]:
    """Returns the logits of every scale, at least float32."""
    logits = [judgement] if isinstance(judgement, Tensor) else [features[-1] for features in judgement]
    return [at_least_float32(values) for values in logits]


def _mean_over_scales(judgement: Judgement, term: Callable[[Tensor], Tensor]) -> Tensor:
    return torch.stack([term(logits) for logits in logits_per_scale(judgement)]).mean()


def _generator_term(objective: GanObjective, logits: Tensor) -> Tensor:
    match objective:
        case "lsgan" | "vanilla":
            return _discriminator_term(objective, logits, real=True)
        case "hinge" | "wgangp":
            return -logits.mean()


def _discriminator_term(objective: GanObjective, logits: Tensor, *, real: bool) -> Tensor:
    target = torch.ones_like(logits) if real else torch.zeros_like(logits)
    sign = 1 if real else -1
    match objective:
        case "lsgan":
            return functional.mse_loss(logits, target)
        case "vanilla":
            return functional.binary_cross_entropy_with_logits(logits, target)
        case "hinge":
            return functional.relu(1 - sign * logits).mean()
        case "wgangp":
            return -sign * logits.mean()
