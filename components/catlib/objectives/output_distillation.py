"""Distillation by output: the choice of the loss between the student's images and its teacher's."""

from collections.abc import Callable

from torch import Tensor

from components.catlib.config.distillers import ContentRelationsConfig, DistillerConfig, OutputConfig, WaveletConfig
from components.catlib.objectives.distillers.content_relations import ContentRelations
from components.catlib.objectives.distillers.wavelet import WaveletLoss

OutputLoss = Callable[[Tensor, Tensor], Tensor]
"""Takes the student's images, with gradient, and the teacher's; returns a scalar, at least float32."""


def output_loss(config: DistillerConfig) -> OutputLoss | None:
    """Returns the loss that a recipe asks for, with its weight; None when images are not compared.

    Args:
        config: `distill.distiller` of the recipe.
    """
    match config:
        case OutputConfig(weight=0):
            return None
        case WaveletConfig():
            loss = WaveletLoss(config)
        case ContentRelationsConfig():
            loss = ContentRelations(config)
        case _:
            return None
    return lambda image, wanted: config.weight * loss(image, wanted)
