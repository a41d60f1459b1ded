"""Distillation on label maps: the losses of SPADE, and the teacher's features."""

from torch import Tensor

from components.catlib.config import SpadeDistillConfig
from components.catlib.data.batches import Batch
from components.catlib.objectives.optimisation import detached, total, update
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.spade import SpadeAdversary
from components.catlib.objectives.student import StudentTraining


class LabelDistillation:
    """Trains a student that paints label maps, as `SpadeObjective` trains its teacher, plus the teacher's features.

    Attributes:
        networks, generators, discriminators, teachers, optimizers: Those of the student's training.
    """

    def __init__(self, config: SpadeDistillConfig, student: StudentTraining, perceptual: PerceptualLoss | None) -> None:
        """Takes what it trains.

        Args:
            config: Weights of the losses.
            student: The student, its teacher and its discriminator.
            perceptual: The VGG19 loss; required if the perceptual loss has a weight.
        """
        self._accelerator, self._student = student.accelerator, student
        self.networks, self.optimizers, self.teachers = student.networks, student.optimizers, student.teachers
        self.generators, self.discriminators = student.generators, student.discriminators
        self._adversary = SpadeAdversary(config, student.discriminator, perceptual)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates the student, then the discriminator with what the updated student paints.

        Args:
            batch: On the accelerator's device; in every process at least 2 images for kernel alignment (3 centred).

        Returns:
            Detached scalars of this process. "generator" is the sum of "adversarial", "feature_matching",
            "perceptual" and "distillation". "discriminator" is the sum of "discriminator_fake", "discriminator_real"
            and, with `wgangp`, "gradient_penalty". All parts are weighted. The distiller's figure, such as
            "misalignment_<layer>" = 1 − KA, is not.

        Raises:
            UserError: The batch is too small for the distillation loss.
        """
        self._student.train()
        seen = self._student.see(batch)
        with self._accelerator.autocast():
            generating = self._adversary.generator_losses(batch, seen.fake)
        losses = self._student.update([(1.0, self._student.with_distillation(generating, seen))])

        with self._accelerator.autocast():
            judging = self._adversary.discriminator_losses(batch, self._student.image(batch))
        judging["discriminator"] = total(judging)
        update(self._accelerator, self.optimizers["discriminator"], [judging["discriminator"]])
        return detached(losses | judging)
