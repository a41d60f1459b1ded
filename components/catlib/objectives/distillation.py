"""Distillation: a pruned student learns from images, a discriminator, and its teacher's features (method section 6).

Loss of the student: λ_gan · GAN + λ_recon · reconstruction + λ_distill · (−Σ KA), for label maps with discriminator
feature matching and VGG19 in place of the reconstruction.

Differs: the published implementation leaves the student in eval mode until its first evaluation; here it trains in
train mode from the first step on.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from components.catlib.config import DistillConfig, check_losses
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.generators import Generator
from components.catlib.networks.spade.generator import InceptionSpadeGenerator
from components.catlib.objectives.adversarial import generator_loss
from components.catlib.objectives.feature_distillation import (
    FeatureDistillation,
    Features,
    FrozenTeacher,
    compares_features,
)
from components.catlib.objectives.optimisation import averaged, build_optimizers, frozen, prepare, total, update
from components.catlib.objectives.pix2pix import patch_discriminator_losses
from components.catlib.objectives.reconstruction import build_reconstruction_loss
from components.catlib.objectives.spade import SpadeAdversary


class DistillationObjective:
    """Trains a student.

    On paired images it is to give the real target, and the discriminator sees source and target. On unpaired images it
    is to give what its teacher gives, and the discriminator sees the image alone. A SPADE student is trained as
    [SpadeObjective][components.catlib.objectives.spade.SpadeObjective] trains its teacher, plus the teacher's features.

    Attributes:
        networks: What is trained: "generator_<direction>", "discriminator_<domain>", and for `mse` "adaptors".
        generators: The student by direction.
        discriminators: The discriminator by the domain that it judges.
        optimizers: "generator" (student and adaptors) and "discriminator".
    """

    def __init__(
        self,
        config: DistillConfig,
        networks: Mapping[str, nn.Module],
        accelerator: Accelerator,
        *,
        teacher: Generator,
        direction: Direction,
        paired: bool,
    ) -> None:
        """Moves the networks to the accelerator's device.

        Args:
            config: Weights of the losses, and the optimisers' settings.
            networks: The networks named above.
            accelerator: Device, precision and processes.
            teacher: A generator of the same direction and with the same distillation layers as the student.
            direction: Which way the student translates.
            paired: Whether source and target of a batch belong together, row by row.

        Raises:
            UserError: VGG19 weights are needed and cannot be read, or the layer weights do not fit, or a loss is asked
                for that a student of such a teacher is trained without.
        """
        check_losses(config, label_maps=isinstance(teacher, InceptionSpadeGenerator))
        self._config, self._accelerator = config, accelerator
        self._direction, self._paired = direction, paired
        self.networks = dict(networks)
        direction = Direction(direction)
        domain = direction.output
        student, discriminator = self.networks[f"generator_{direction}"], self.networks[f"discriminator_{domain}"]
        adaptors = self.networks.get("adaptors")
        self.generators: dict[str, nn.Module] = {direction.value: student}
        self.discriminators: dict[str, nn.Module] = {domain.value: discriminator}
        optimizers = build_optimizers(
            config, generator=[student, adaptors] if adaptors else [student], discriminator=[discriminator]
        )
        self._student = prepare(accelerator, student, config)
        self._discriminator = prepare(accelerator, discriminator, config)
        self.optimizers: dict[str, Optimizer] = optimizers
        self._teacher = FrozenTeacher(
            teacher,
            accelerator,
            wants_image=not paired and config.lambda_recon > 0,
            wants_features=compares_features(config),
        )
        self._feature_distillation = FeatureDistillation(
            config, teacher.distillation_layers, prepare(accelerator, adaptors, config) if adaptors else None
        )
        self._spade_adversary: SpadeAdversary | None = None
        if isinstance(teacher, InceptionSpadeGenerator):
            self._spade_adversary = SpadeAdversary(config, self._discriminator, accelerator)
        else:
            self._reconstruction_loss = build_reconstruction_loss(config, accelerator.device)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates discriminator, then student; with SPADE the student, then the discriminator.

        Args:
            batch: On the accelerator's device; in every process at least 2 images for kernel alignment (3 centred).

        Returns:
            Detached scalars averaged over devices; parts of a loss carry its weight: "generator", its "adversarial",
            "reconstruction" or "feature_matching" and "perceptual", and "distillation"; "discriminator", its
            "discriminator_fake" and "discriminator_real"; without weight, "misalignment_<layer>" = 1 − KA.

        Raises:
            UserError: The batch is too small for kernel alignment.
        """
        self._student.train()
        self._discriminator.train()
        adversary = self._spade_adversary
        losses = self._step(batch) if adversary is None else self._spade_step(batch, adversary)
        return averaged(self._accelerator, losses)

    def _step(self, batch: Batch) -> dict[str, Tensor]:
        config = self._config
        forward = self._direction == "source_to_target"
        source, real = (batch.source, batch.target) if forward else (batch.target, batch.source)
        teacher_image, teacher_features = self._teacher(source)
        with self._accelerator.autocast():
            fake, features = self._student(source, return_features=True)
        fake_shown, real_shown = (
            torch.cat([source, image], dim=1) if self._paired else image for image in (fake, real)
        )
        with self._accelerator.autocast():
            judging = patch_discriminator_losses(config, self._discriminator, fake=fake_shown, real=real_shown)
        update(self._accelerator, self.optimizers["discriminator"], judging["discriminator"])

        with frozen(self._discriminator), self._accelerator.autocast():
            judgement = self._discriminator(fake_shown)
            generating = {"adversarial": config.lambda_gan * generator_loss(config.gan_objective, judgement)}
            if config.lambda_recon > 0:
                wanted = real if self._paired else teacher_image
                assert wanted is not None
                generating["reconstruction"] = config.lambda_recon * self._reconstruction_loss(fake, wanted)
        return judging | self._update_student(generating, features, teacher_features)

    def _spade_step(self, batch: Batch, adversary: SpadeAdversary) -> dict[str, Tensor]:
        _, teacher_features = self._teacher(batch.source)
        with self._accelerator.autocast():
            fake, features = self._student(batch.source, return_features=True)
            generating = adversary.generator_losses(batch, fake)
        losses = self._update_student(generating, features, teacher_features)

        with self._accelerator.autocast():
            with torch.no_grad():
                fake = self._student(batch.source)
            judging = adversary.discriminator_losses(batch, fake)
        judging["discriminator"] = total(judging)
        update(self._accelerator, self.optimizers["discriminator"], judging["discriminator"])
        return losses | judging

    def _update_student(
        self, generating: dict[str, Tensor], features: Features, teacher_features: Features
    ) -> dict[str, Tensor]:
        """Adds the distillation loss to the others, takes a step, and returns all with their sum."""
        per_layer: dict[str, Tensor] = {}
        if teacher_features:
            generating["distillation"], per_layer = self._feature_distillation.losses(features, teacher_features)
        generating["generator"] = total(generating)
        update(self._accelerator, self.optimizers["generator"], generating["generator"])
        return generating | per_layer

    def extra_state(self) -> dict[str, Tensor]:
        """Returns nothing: networks and optimisers are the whole state."""
        return {}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Takes back what [extra_state][] returned."""
        assert not state, list(state)
