"""Distillation: a pruned student learns from images, a discriminator, and its teacher's features (method section 6).

Loss of the student: λ_gan · GAN + λ_recon · reconstruction + λ_distill · (−Σ KA), for label maps with discriminator
feature matching and VGG19 in place of the reconstruction. Each λ is the `weight` of a loss in the recipe.

Differs: the published implementation leaves the student in eval mode until its first evaluation; here it trains in
train mode from the first step on.
"""

from collections.abc import Mapping

from torch import nn

from components.catlib.config import CycleGanDistillConfig, DistillConfig, Pix2PixDistillConfig, SpadeDistillConfig
from components.catlib.config.distillers import OmgdConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.generator import Generator
from components.catlib.objectives.image_distillation import ImageDistillation
from components.catlib.objectives.label_distillation import LabelDistillation
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.student import StudentTraining
from components.catlib.objectives.teacher_alone import TeacherAlone

DistillationObjective = ImageDistillation | LabelDistillation | TeacherAlone


def distillation_objective(
    config: DistillConfig,
    networks: Mapping[str, nn.Module],
    accelerator: Accelerator,
    *,
    teacher: Generator,
    direction: Direction,
    perceptual: PerceptualLoss | None = None,
) -> DistillationObjective:
    """Makes the objective that distils teachers of the recipe's family.

    Args:
        config: Weights of the losses, and the optimisers' settings.
        networks: "generator_<direction>", "discriminator_<domain>", and what the distiller trains beside them.
        accelerator: Device, precision and processes.
        teacher: A generator of the same direction and with the same distillation layers as the student.
        direction: The student's direction.
        perceptual: The VGG19 loss; required if a loss of the recipe uses VGG19's features.

    Raises:
        UserError: The number of layer weights is not that of the distillation layers.
    """
    alone = isinstance(config.distiller, OmgdConfig)
    student = StudentTraining(
        config,
        networks,
        accelerator,
        teacher=teacher,
        direction=direction,
        wants_image=isinstance(config, CycleGanDistillConfig) and config.reconstruction.weight > 0 and not alone,
        perceptual=perceptual,
    )
    if alone:
        return TeacherAlone(config, student, perceptual)
    match config:
        case Pix2PixDistillConfig() | CycleGanDistillConfig():
            return ImageDistillation(config, student, perceptual)
        case SpadeDistillConfig():
            return LabelDistillation(config, student, perceptual)
