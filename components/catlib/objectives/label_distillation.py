"""Distillation on label maps: the losses of SPADE, and the teacher's features."""

from collections.abc import Mapping

from torch import Tensor, nn

from components.catlib.config import SpadeDistillConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.generator import Generator
from components.catlib.objectives.frozen_teacher import Seen
from components.catlib.objectives.optimisation import detached, total, update
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.spade import SpadeAdversary
from components.catlib.objectives.student import StudentTraining


class LabelDistillation:
    """Trains a student that paints label maps, as `SpadeObjective` trains its teacher, plus the teacher's features.

    Attributes:
        networks: What is trained: "generator_source_to_target", "discriminator_target", and for `mse` "adaptors".
        generators: The student by direction.
        discriminators: The discriminator by the domain that it judges.
        teachers: The teacher by direction; it is not trained.
        optimizers: "generator" (student and adaptors) and "discriminator".
    """

    def __init__(
        self,
        config: SpadeDistillConfig,
        networks: Mapping[str, nn.Module],
        accelerator: Accelerator,
        *,
        teacher: Generator,
        direction: Direction,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        """Moves the networks to the accelerator's device.

        Args:
            config: Weights of the losses, and the optimisers' settings.
            networks: The networks named above.
            accelerator: Device, precision and processes.
            teacher: A SPADE generator with the same distillation layers as the student.
            direction: The student's direction.
            perceptual: The VGG19 loss; required if the perceptual loss has a weight.

        Raises:
            UserError: The number of layer weights is not that of the distillation layers.
        """
        self._accelerator = accelerator
        student = StudentTraining(config, networks, accelerator, teacher=teacher, direction=direction)
        self.networks, self.optimizers = student.networks, student.optimizers
        self.generators, self.discriminators = student.generators, student.discriminators
        self.teachers = {Direction(direction).value: teacher}
        self._student, self._teacher = student, student.teacher
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
        teacher_image, teacher_features = self._teacher(batch.source)
        with self._accelerator.autocast():
            fake, features = self._student.translate(batch.source)
            generating = self._adversary.generator_losses(batch, fake)
        generating = self._student.with_distillation(generating, Seen(fake, features, teacher_image, teacher_features))
        losses = self._student.update([(1.0, generating)])

        with self._accelerator.autocast():
            judging = self._adversary.discriminator_losses(batch, self._student.image(batch.source))
        judging["discriminator"] = total(judging)
        update(self._accelerator, self.optimizers["discriminator"], [judging["discriminator"]])
        return detached(losses | judging)

    def extra_state(self) -> dict[str, Tensor]:
        """Returns nothing: networks and optimisers are the whole state."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `extra_state` returned."""
        assert not state, list(state)
