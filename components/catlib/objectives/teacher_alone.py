"""Distillation without a discriminator for the student: it learns from its teacher alone, which may learn on (OMGD)."""

from collections.abc import Mapping

from torch import Tensor, nn

from components.catlib.config import DistillConfig, Pix2PixDistillConfig, SpadeDistillConfig
from components.catlib.config.distillers import OmgdConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.generator import Generator
from components.catlib.objectives.frozen_teacher import Seen
from components.catlib.objectives.parts import parts_of
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.pix2pix import Pix2PixObjective
from components.catlib.objectives.spade import SpadeObjective
from components.catlib.objectives.student import StudentTraining


class TeacherAlone:
    """Trains a student by its distillation loss alone.

    Online, every step first trains the teacher on, as its own training did, with the losses of the distill section and
    against the discriminator, and the student then learns from the teacher as it is now. Otherwise teacher and
    discriminator stay as they are.

    Attributes:
        networks: What is trained: "generator_<direction>", "adaptors", online "discriminator_<domain>" and "teacher";
            the discriminator is among them in any case, since an artifact holds it.
        generators: The student by direction.
        discriminators: The discriminator by the domain that it judges.
        teachers: The teacher by direction.
        optimizers: "generator" (student and adaptors), "discriminator", and online "teacher".
    """

    def __init__(
        self,
        config: DistillConfig,
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
            networks: The networks named above, without the teacher.
            accelerator: Device, precision and processes.
            teacher: A generator of the same direction and with the same distillation layers as the student.
            direction: The student's direction.
            perceptual: The VGG19 loss; required if a loss of the recipe has a use for it.

        Raises:
            UserError: The number of layer weights is not that of the distillation layers.
        """
        self._config, self._accelerator = config, accelerator
        self._forward = Direction(direction) == Direction.SOURCE_TO_TARGET
        self._student = StudentTraining(
            config, networks, accelerator, teacher=teacher, direction=direction, perceptual=perceptual
        )
        self.networks, self.optimizers = dict(self._student.networks), dict(self._student.optimizers)
        self.generators, self.discriminators = self._student.generators, self._student.discriminators
        self.teachers = {Direction(direction).value: teacher}
        self._teacher = teacher
        assert isinstance(config.distiller, OmgdConfig)
        self._teaching: Pix2PixObjective | SpadeObjective | None = None
        if config.distiller.online:
            teacher.requires_grad_(True)
            self.networks["teacher"] = teacher
            judge = {name: network for name, network in networks.items() if name.startswith("discriminator_")}
            own = {f"generator_{Direction(direction)}": teacher, **judge}
            match config:
                case Pix2PixDistillConfig():
                    self._teaching = Pix2PixObjective(config, own, accelerator, perceptual)
                case SpadeDistillConfig():
                    vgg = perceptual if config.perceptual.weight > 0 else None
                    self._teaching = SpadeObjective(config, own, accelerator, vgg)
            assert self._teaching is not None, config.family
            self.optimizers["discriminator"] = self._teaching.optimizers["discriminator"]
            self.optimizers["teacher"] = self._teaching.optimizers["generator"]

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates the teacher and its discriminator if they learn on, then the student.

        Args:
            batch: On the accelerator's device.

        Returns:
            Detached scalars of this process. "generator" is "distillation", the student's weighted loss. The figure
            "channel_distance_<layer>" is not weighted. Online, the teacher's losses are "teacher_<name>", and
            those of the discriminator bear their own names.
        """
        taught: dict[str, Tensor] = {}
        if self._teaching is not None:
            losses = self._teaching.step(batch)
            taught = {name if _judges(name) else f"teacher_{name}": loss for name, loss in losses.items()}
            self._teacher.eval()
        self._student.train()
        parts = parts_of(batch, self._config.images_per_pass)
        return taught | self._student.update((part.share, self._losses(part.images)) for part in parts)

    def _losses(self, batch: Batch) -> dict[str, Tensor]:
        source = batch.source if self._forward else batch.target
        teacher_image, teacher_features = self._student.teacher(source)
        with self._accelerator.autocast():
            fake, features = self._student.translate(source)
        return self._student.with_distillation({}, Seen(fake, features, teacher_image, teacher_features))

    def extra_state(self) -> dict[str, Tensor]:
        """Returns nothing: networks and optimisers are the whole state."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `extra_state` returned."""
        assert not state, list(state)


def _judges(name: str) -> bool:
    return name.startswith("discriminator") or name == "gradient_penalty"
