"""Distillation without a discriminator for the student: it learns from its teacher alone, which may learn on (OMGD)."""

from torch import Tensor

from components.catlib.config import DistillConfig, Pix2PixDistillConfig, SpadeDistillConfig
from components.catlib.config.distillers import OmgdConfig
from components.catlib.data.batches import Batch
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
        networks: Those of the student's training, the discriminator too, since an artifact holds it; online "teacher".
        generators, discriminators, teachers: Those of the student's training.
        optimizers: "generator" (student and adaptors), "discriminator", and online "teacher".
    """

    def __init__(self, config: DistillConfig, student: StudentTraining, perceptual: PerceptualLoss | None) -> None:
        """Takes what it trains.

        Args:
            config: Weights of the losses, and the optimisers' settings.
            student: The student, its teacher and its discriminator.
            perceptual: The VGG19 loss; required if a loss of the recipe has a use for it.
        """
        self._config, self._student = config, student
        self.networks, self.optimizers = dict(student.networks), dict(student.optimizers)
        self.generators, self.discriminators = student.generators, student.discriminators
        self.teachers = student.teachers
        (self._teacher,) = student.teachers.values()
        assert isinstance(config.distiller, OmgdConfig)
        self._teaching: Pix2PixObjective | SpadeObjective | None = None
        if config.distiller.online:
            self._teacher.requires_grad_(True)
            self.networks["teacher"] = self._teacher
            own = {name: network for name, network in student.networks.items() if name.startswith("discriminator_")}
            own[f"generator_{student.direction}"] = self._teacher
            match config:
                case Pix2PixDistillConfig():
                    self._teaching = Pix2PixObjective(config, own, student.accelerator, perceptual)
                case SpadeDistillConfig():
                    vgg = perceptual if config.perceptual.weight > 0 else None
                    self._teaching = SpadeObjective(config, own, student.accelerator, vgg)
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
        losses = ((part.share, self._student.with_distillation({}, self._student.see(part.images))) for part in parts)
        return taught | self._student.update(losses)


def _judges(name: str) -> bool:
    return name.startswith("discriminator") or name == "gradient_penalty"
