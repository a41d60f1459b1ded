"""A student in training, whatever it translates: the student, its teacher and its discriminator."""

from collections.abc import Iterable, Mapping
from functools import reduce
from operator import add

import torch
from torch import Tensor, nn

from components.catlib.config import DistillConfig
from components.catlib.config.distillers import DiscriminatorCooperatedConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.generator import Generator
from components.catlib.objectives.feature_distillation import build_feature_distillation
from components.catlib.objectives.frozen_teacher import FrozenTeacher, Seen
from components.catlib.objectives.optimisation import build_optimizers, noting, prepare, total, update
from components.catlib.objectives.output_distillation import output_loss
from components.catlib.objectives.perceptual import PerceptualLoss


class StudentTraining:
    """The part that distillations from teachers of every family share.

    Attributes:
        networks: What is trained: "generator_<direction>", "discriminator_<domain>", and what the distiller trains,
            such as "adaptors".
        generators: The student by direction.
        discriminators: The discriminator by the domain that it judges.
        teachers: The teacher by direction.
        optimizers: "generator" (student and adaptors) and "discriminator".
        discriminator: The discriminator, as prepared by the accelerator.
        accelerator: Device, precision and processes.
        direction: The student's direction.
    """

    def __init__(
        self,
        config: DistillConfig,
        networks: Mapping[str, nn.Module],
        accelerator: Accelerator,
        *,
        teacher: Generator,
        direction: Direction,
        wants_image: bool = False,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        """Moves the networks to the accelerator's device.

        Args:
            config: Weights of the losses, and the optimisers' settings.
            networks: The networks named above.
            accelerator: Device, precision and processes.
            teacher: A generator of the same direction and with the same distillation layers as the student.
            direction: The student's direction.
            wants_image: Whether the teacher's images are wanted for more than the distillation loss.
            perceptual: The VGG19 loss; required if the distiller gives it a weight.

        Raises:
            UserError: The number of layer weights is not that of the distillation layers.
        """
        self.accelerator = accelerator
        self.networks = dict(networks)
        self.direction = way = Direction(direction)
        generator, judge = f"generator_{way}", f"discriminator_{way.output}"
        own = {name: network for name, network in networks.items() if name not in (generator, judge)}
        self.generators: dict[str, nn.Module] = {way.value: networks[generator]}
        self.discriminators: dict[str, nn.Module] = {way.output.value: networks[judge]}
        self.teachers = {way.value: teacher}
        self.optimizers = build_optimizers(
            config, generator=[networks[generator], *own.values()], discriminator=[networks[judge]]
        )
        self._generator = prepare(accelerator, networks[generator], config)
        self.discriminator = prepare(accelerator, networks[judge], config)
        prepared = {name: prepare(accelerator, network, config) for name, network in own.items()}
        if isinstance(config.distiller, DiscriminatorCooperatedConfig):
            prepared["discriminator"] = self.discriminator
        self._feature_distillation = build_feature_distillation(config.distiller, teacher.distillation_layers, prepared)
        self._output_loss = output_loss(config.distiller, perceptual)
        self._teacher = FrozenTeacher(
            teacher,
            accelerator,
            config,
            wants_image=wants_image or self._output_loss is not None,
            wants_features=self._feature_distillation is not None,
        )

    def train(self) -> None:
        """Puts student and discriminator into train mode."""
        self._generator.train()
        self.discriminator.train()

    def source(self, batch: Batch) -> Tensor:
        """Returns the images that the student translates."""
        return batch.source if self.direction == Direction.SOURCE_TO_TARGET else batch.target

    def real(self, batch: Batch) -> Tensor:
        """Returns real images of the domain that the student translates to."""
        return batch.target if self.direction == Direction.SOURCE_TO_TARGET else batch.source

    def see(self, batch: Batch) -> Seen:
        """Returns what teacher and student make of a batch."""
        source = self.source(batch)
        teacher_image, teacher_features = self._teacher(source)
        with self.accelerator.autocast():
            fake, features = self._generator(source, return_features=True)
        return Seen(fake, features, teacher_image, teacher_features)

    @torch.no_grad()
    def image(self, batch: Batch) -> Tensor:
        """Returns the student's images, without gradient."""
        return self._generator(self.source(batch))

    def with_distillation(self, generating: dict[str, Tensor], seen: Seen) -> dict[str, Tensor]:
        """Adds the distillation loss to the others; returns all of them, their sum "generator", and the figures.

        Args:
            generating: The other parts of the generator's loss, weighted scalars.
            seen: What student and teacher make of the images.

        Raises:
            UserError: The batch is too small, or the images do not fit, for the distillation loss.
        """
        distillation: list[Tensor] = []
        per_layer: dict[str, Tensor] = {}
        if self._feature_distillation is not None:
            of_features, per_layer = self._feature_distillation.losses(seen.features, seen.teacher_features)
            distillation.append(of_features)
        if self._output_loss is not None:
            assert seen.teacher_image is not None
            distillation.append(self._output_loss(seen.fake, seen.teacher_image))
        if distillation:
            generating = {**generating, "distillation": reduce(add, distillation)}
        return {**generating, "generator": total(generating), **per_layer}

    def update(self, parts: Iterable[tuple[float, dict[str, Tensor]]]) -> dict[str, Tensor]:
        """Takes a step down the losses of a batch, and returns them, detached.

        Args:
            parts: For each part of the batch its share, and what `with_distillation` returned.
        """
        noted: dict[str, Tensor] = {}
        update(self.accelerator, self.optimizers["generator"], noting(parts, noted, whole="generator"))
        return noted
