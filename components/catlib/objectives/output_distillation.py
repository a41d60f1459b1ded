"""Distillation by output: the choice of the loss between the student's images and its teacher's."""

from collections.abc import Callable

from torch import Tensor

from components.catlib.config.distillers import (
    ContentRelationsConfig,
    DistillerConfig,
    FeatureConfig,
    OmgdConfig,
    OutputConfig,
    WaveletConfig,
)
from components.catlib.objectives.distillers.content_relations import ContentRelations
from components.catlib.objectives.distillers.omgd import OmgdOutputLoss
from components.catlib.objectives.distillers.wavelet import WaveletLoss
from components.catlib.objectives.perceptual import PerceptualLoss

OutputLoss = Callable[[Tensor, Tensor], Tensor]
"""Takes the student's images, with gradient, and the teacher's; returns a scalar, at least float32."""


def output_loss(config: DistillerConfig, perceptual: PerceptualLoss | None = None) -> OutputLoss | None:
    """Returns the loss that a recipe asks for, with its weight; None when images are not compared.

    Args:
        config: `distill.distiller` of the recipe.
        perceptual: The VGG19 loss; required if the distiller gives it a weight.
    """
    match config:
        case OutputConfig(weight=0) | FeatureConfig(weight=0):
            return None
        case WaveletConfig():
            loss = WaveletLoss(config)
        case ContentRelationsConfig():
            loss = ContentRelations(config)
        case OmgdConfig():
            loss = OmgdOutputLoss(config, perceptual)
        case _:
            return None
    return lambda image, wanted: config.weight * loss(image, wanted)
