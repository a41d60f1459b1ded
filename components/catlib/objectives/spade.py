"""Teacher training on label maps: SPADE, the objective of GauGAN (method section 4; Park et al. 2019)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.catlib.config import SpadeConfig, SpadeDistillConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.adversarial import discriminator_loss, generator_loss, gradient_penalty
from components.catlib.objectives.optimisation import build_optimizers, detached, frozen, prepare, total, update
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.reconstruction import feature_matching_loss


class SpadeObjective:
    """Trains a generator to paint label maps, against a discriminator that sees both at several scales.

    Attributes:
        networks: What is trained: "generator_source_to_target" and "discriminator_target".
        generators: The generator by direction.
        discriminators: The discriminator by the domain that it judges.
        optimizers: "generator" and "discriminator".
    """

    def __init__(
        self,
        config: SpadeConfig | SpadeDistillConfig,
        networks: Mapping[str, nn.Module],
        accelerator: Accelerator,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        """Moves the networks to the accelerator's device.

        Args:
            config: Weights of the losses, and the optimisers' settings.
            networks: The two networks named above; the discriminator takes semantic and image channels together and
                answers with features at several scales.
            accelerator: Device, precision and processes.
            perceptual: The VGG19 loss; required if the perceptual loss has a weight.
        """
        self._accelerator = accelerator
        self.networks = dict(networks)
        self.generators = {"source_to_target": self.networks["generator_source_to_target"]}
        self.discriminators = {"target": self.networks["discriminator_target"]}
        optimizers = build_optimizers(
            config, generator=self.generators.values(), discriminator=self.discriminators.values()
        )
        self._generator = prepare(accelerator, self.generators["source_to_target"], config)
        self._discriminator = prepare(accelerator, self.discriminators["target"], config)
        self._adversary = SpadeAdversary(config, self._discriminator, perceptual)
        self.optimizers = optimizers

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates the generator, then the discriminator with what the updated generator paints.

        Args:
            batch: Semantic planes as source, images as target, on the accelerator's device.

        Returns:
            Detached scalars of this process. "generator" is the sum of "adversarial", "feature_matching" and
            "perceptual". "discriminator" is the sum of "discriminator_fake", "discriminator_real" and, with `wgangp`,
            "gradient_penalty". All parts are weighted.
        """
        self._generator.train()
        self._discriminator.train()
        with self._accelerator.autocast():
            generating = self._adversary.generator_losses(batch, self._generator(batch.source))
        generating["generator"] = total(generating)
        update(self._accelerator, self.optimizers["generator"], [generating["generator"]])

        with self._accelerator.autocast():
            with torch.no_grad():
                fake = self._generator(batch.source)
            judging = self._adversary.discriminator_losses(batch, fake)
        judging["discriminator"] = total(judging)
        update(self._accelerator, self.optimizers["discriminator"], [judging["discriminator"]])
        return detached(generating | judging)


class SpadeAdversary:
    """Computes the losses of generator and discriminator from a multi-scale discriminator's features."""

    def __init__(
        self,
        config: SpadeConfig | SpadeDistillConfig,
        discriminator: nn.Module,
        perceptual: PerceptualLoss | None,
    ) -> None:
        """Takes the networks that judge images.

        Args:
            config: The adversarial objective and the weights of the losses.
            discriminator: The discriminator, as prepared by the accelerator; in train mode whenever it is used.
            perceptual: The VGG19 loss; required if the perceptual loss has a weight.
        """
        self._config = config
        self._discriminator = discriminator
        assert perceptual is not None or config.perceptual.weight == 0, "the perceptual loss needs its network"
        self._perceptual_loss = perceptual

    def generator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Returns the parts of the generator's loss, weighted.

        Args:
            batch: Semantic planes and real images.
            fake: The generator's images for these planes, with gradient.

        Returns:
            "adversarial", and where they have a weight "feature_matching" and "perceptual".
        """
        config = self._config
        with frozen(self._discriminator):
            fake_features, real_features = self._judge(batch, fake)
        losses = {"adversarial": config.adversarial.weight * generator_loss(config.adversarial.kind, fake_features)}
        if config.feature_matching.weight > 0:
            losses["feature_matching"] = config.feature_matching.weight * feature_matching_loss(
                fake_features, real_features
            )
        if self._perceptual_loss is not None:
            losses["perceptual"] = config.perceptual.weight * self._perceptual_loss(fake, batch.target)
        return losses

    def discriminator_losses(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Returns the parts of the discriminator's loss, which are not halved.

        Args:
            batch: Semantic planes and real images.
            fake: The generator's images for these planes, without gradient.

        Returns:
            "discriminator_fake", "discriminator_real", and with `wgangp` "gradient_penalty", weighted.
        """
        adversarial = self._config.adversarial
        fake_features, real_features = self._judge(batch, fake)
        losses = {
            "discriminator_fake": discriminator_loss(adversarial.kind, fake_features, real=False),
            "discriminator_real": discriminator_loss(adversarial.kind, real_features, real=True),
        }
        if adversarial.kind == "wgangp":
            real_pair = torch.cat([batch.source, batch.target], dim=1)
            penalty = gradient_penalty(self._discriminator, real_pair, torch.cat([batch.source, fake], dim=1))
            losses["gradient_penalty"] = adversarial.gradient_penalty * penalty
        return losses

    def _judge(self, batch: Batch, fake: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        """Returns the features of fake and of real images, which go through in one batch."""
        semantics = torch.cat([batch.source, batch.source])
        images = torch.cat([fake, batch.target])
        scales = self._discriminator(torch.cat([semantics, images], dim=1))
        num_fakes = fake.shape[0]
        fake_features = [[feature[:num_fakes] for feature in features] for features in scales]
        real_features = [[feature[num_fakes:] for feature in features] for features in scales]
        return fake_features, real_features
