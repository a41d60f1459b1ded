"""Teacher training on paired images: pix2pix (method section 4; Isola et al. 2017)."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.catlib.config import Pix2PixConfig, Pix2PixDistillConfig
from components.catlib.config.losses import AdversarialConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.adversarial import discriminator_loss, generator_loss, gradient_penalty
from components.catlib.objectives.optimisation import build_optimizers, detached, frozen, noting, prepare, total, update
from components.catlib.objectives.parts import parts_of
from components.catlib.objectives.perceptual import PerceptualLoss
from components.catlib.objectives.reconstruction import reconstruction_loss


class Pix2PixObjective:
    """Trains a generator to turn a source image into its target, against a discriminator that sees both.

    Attributes:
        networks: What is trained: "generator_source_to_target" and "discriminator_target".
        generators: The generator by direction.
        discriminators: The discriminator by the domain that it judges.
        optimizers: "generator" and "discriminator".
    """

    def __init__(
        self,
        config: Pix2PixConfig | Pix2PixDistillConfig,
        networks: Mapping[str, nn.Module],
        accelerator: Accelerator,
        perceptual: PerceptualLoss | None = None,
    ) -> None:
        """Moves the networks to the accelerator's device.

        Args:
            config: Weights of the losses, and the optimisers' settings.
            networks: The two networks named above; the discriminator takes source and target channels together.
            accelerator: Device, precision and processes.
            perceptual: The VGG19 loss; required if it is the reconstruction loss.
        """
        self._config = config
        self._accelerator = accelerator
        self.networks = dict(networks)
        self.generators = {"source_to_target": self.networks["generator_source_to_target"]}
        self.discriminators = {"target": self.networks["discriminator_target"]}
        optimizers = build_optimizers(
            config, generator=self.generators.values(), discriminator=self.discriminators.values()
        )
        self._generator = prepare(accelerator, self.generators["source_to_target"], config)
        self._discriminator = prepare(accelerator, self.discriminators["target"], config)
        self.optimizers = optimizers
        self._reconstruction_loss = reconstruction_loss(config.reconstruction, perceptual)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates the discriminator, then the generator against the updated discriminator.

        Args:
            batch: Paired images on the accelerator's device.

        Returns:
            Detached scalars of this process. "discriminator" is made of "discriminator_fake" and
            "discriminator_real" as `patch_discriminator_losses` describes. "generator" is the sum of "adversarial" and
            "reconstruction", which are weighted.
        """
        self._generator.train()
        self._discriminator.train()
        parts = parts_of(batch, self._config.images_per_pass)
        with self._accelerator.autocast(), torch.set_grad_enabled(len(parts) == 1):
            fakes = [self._generator(part.images.source) for part in parts]
        judging: dict[str, Tensor] = {}
        losses = ((part.share, self._judge(part.images, fake)) for part, fake in zip(parts, fakes, strict=True))
        update(self._accelerator, self.optimizers["discriminator"], noting(losses, judging, whole="discriminator"))
        generating: dict[str, Tensor] = {}
        losses = ((part.share, self._generate(part.images, fake)) for part, fake in zip(parts, fakes, strict=True))
        update(self._accelerator, self.optimizers["generator"], noting(losses, generating, whole="generator"))
        return detached(judging | generating)

    def _judge(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Returns the discriminator's loss and its parts."""
        fake_pair, real_pair = (torch.cat([batch.source, image], dim=1) for image in (fake, batch.target))
        with self._accelerator.autocast():
            return patch_discriminator_losses(
                self._config.adversarial, self._discriminator, fake=fake_pair, real=real_pair
            )

    def _generate(self, batch: Batch, fake: Tensor) -> dict[str, Tensor]:
        """Returns the generator's loss and its parts; an image without gradient is generated again."""
        config = self._config
        if not fake.requires_grad:
            with self._accelerator.autocast():
                fake = self._generator(batch.source)
        with frozen(self._discriminator), self._accelerator.autocast():
            judgement = self._discriminator(torch.cat([batch.source, fake], dim=1))
            reconstruction = self._reconstruction_loss(fake, batch.target)
        losses = {
            "adversarial": config.adversarial.weight * generator_loss(config.adversarial.kind, judgement),
            "reconstruction": config.reconstruction.weight * reconstruction,
        }
        return {**losses, "generator": total(losses)}


def patch_discriminator_losses(
    config: AdversarialConfig, discriminator: nn.Module, *, fake: Tensor, real: Tensor
) -> dict[str, Tensor]:
    """Returns the loss of a discriminator that judges single images, or single pairs, and the parts of this loss.

    Args:
        config: The adversarial objective.
        discriminator: Judges [N, C, H, W]; it gets the generated images first, then the real ones.
        fake: Generated images or pairs, [N, C, H, W]; they get no gradient.
        real: Real images or pairs, the same shape.

    Returns:
        "discriminator_fake", "discriminator_real", with `wgangp` "gradient_penalty", and their sum "discriminator", in
        which the first two count half.
    """
    fake = fake.detach()
    fake_judgement = discriminator(fake)
    real_judgement = discriminator(real)
    losses = {
        "discriminator_fake": discriminator_loss(config.kind, fake_judgement, real=False),
        "discriminator_real": discriminator_loss(config.kind, real_judgement, real=True),
    }
    if config.kind == "wgangp":
        losses["gradient_penalty"] = config.gradient_penalty * gradient_penalty(discriminator, real, fake)
    judgements = (losses["discriminator_fake"] + losses["discriminator_real"]) / 2
    losses["discriminator"] = judgements + losses["gradient_penalty"] if "gradient_penalty" in losses else judgements
    return losses
