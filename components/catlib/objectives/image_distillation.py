"""Distillation on paired or unpaired images: discriminator, reconstruction and the teacher's features."""

import torch
from torch import Tensor

from components.catlib.config import CycleGanDistillConfig, Pix2PixDistillConfig
from components.catlib.data.batches import Batch
from components.catlib.objectives.adversarial import generator_loss
from components.catlib.objectives.frozen_teacher import Seen
from components.catlib.objectives.optimisation import detached, frozen, noting, update
from components.catlib.objectives.parts import parts_of
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.pix2pix import patch_discriminator_losses
from components.catlib.objectives.reconstruction import reconstruction_loss
from components.catlib.objectives.student import StudentTraining


class ImageDistillation:
    """Trains a student that translates images.

    With a pix2pix teacher, its goal is the real target, and the discriminator sees source and target. With a CycleGAN
    teacher, its goal is the teacher's image, and the discriminator sees the image alone.

    Attributes:
        networks, generators, discriminators, teachers, optimizers: Those of the student's training.
    """

    def __init__(
        self,
        config: Pix2PixDistillConfig | CycleGanDistillConfig,
        student: StudentTraining,
        perceptual: PerceptualLoss | None,
    ) -> None:
        """Takes what it trains.

        Args:
            config: Weights of the losses, and the optimisers' settings.
            student: The student, its teacher and its discriminator.
            perceptual: The VGG19 loss; required if it is the reconstruction loss.
        """
        self._config, self._student, self._discriminator = config, student, student.discriminator
        self._accelerator, self._paired = student.accelerator, config.family == "pix2pix"
        self.networks, self.optimizers, self.teachers = student.networks, student.optimizers, student.teachers
        self.generators, self.discriminators = student.generators, student.discriminators
        self._reconstruction_loss = reconstruction_loss(config.reconstruction, perceptual)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates the discriminator, then the student against the updated discriminator.

        Args:
            batch: On the accelerator's device; in every process at least 2 images for kernel alignment (3 centred).

        Returns:
            Detached scalars of this process. "discriminator" is made of "discriminator_fake" and
            "discriminator_real" as `patch_discriminator_losses` describes. "generator" is the sum of "adversarial",
            "reconstruction" and "distillation", which are weighted. The distiller's figure, such as
            "misalignment_<layer>" = 1 − KA, is not.

        Raises:
            UserError: The batch is too small for the distillation loss.
        """
        self._student.train()
        parts = parts_of(batch, self._config.images_per_pass)
        seen = self._student.see(batch) if len(parts) == 1 else None
        fakes = [self._student.image(part.images) for part in parts] if seen is None else [seen.fake]
        judging: dict[str, Tensor] = {}
        losses = ((part.share, self._judge(part.images, fake)) for part, fake in zip(parts, fakes, strict=True))
        update(self._accelerator, self.optimizers["discriminator"], noting(losses, judging, whole="discriminator"))

        losses = ((part.share, self._generate(part.images, seen or self._student.see(part.images))) for part in parts)
        return detached(judging | self._student.update(losses))

    def _judge(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Returns the discriminator's loss and its parts."""
        fake_shown, real_shown = (self._shown(batch, image) for image in (fake, self._student.real(batch)))
        with self._accelerator.autocast():
            return patch_discriminator_losses(
                self._config.adversarial, self._discriminator, fake=fake_shown, real=real_shown
            )

    def _generate(self, batch: Batch, seen: Seen) -> dict[str, Tensor]:
        """Returns the student's loss and its parts."""
        config = self._config
        with frozen(self._discriminator), self._accelerator.autocast():
            judgement = self._discriminator(self._shown(batch, seen.fake))
            losses = {"adversarial": config.adversarial.weight * generator_loss(config.adversarial.kind, judgement)}
            if config.reconstruction.weight > 0:
                wanted = self._student.real(batch) if self._paired else seen.teacher_image
                assert wanted is not None
                losses["reconstruction"] = config.reconstruction.weight * self._reconstruction_loss(seen.fake, wanted)
        return self._student.with_distillation(losses, seen)

    def _shown(self, batch: Batch, image: Tensor) -> Tensor:
        """Returns what the discriminator sees of an image."""
        return torch.cat([self._student.source(batch), image], dim=1) if self._paired else image
