"""Teacher training on unpaired images: CycleGAN, both directions in one run (method section 4; Zhu et al. 2017)."""

import random
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from components.catlib.config import CycleGanConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.adversarial import discriminator_loss, generator_loss, gradient_penalty
from components.catlib.objectives.image_pool import ImagePool, random_state, restore_random_state
from components.catlib.objectives.optimisation import build_optimizers, detached, frozen, noting, prepare, total, update
from components.catlib.objectives.parts import parts_of
from components.catlib.objectives.reconstruction import l1_loss

_DOMAINS = ("target", "source")
"""The order in which the discriminators' pools draw random numbers."""


class CycleGanObjective:
    """Trains a generator in each direction; translating there and back must return the original image.

    Differs: with the hinge objective the published implementation trains the generators with the discriminators' loss.

    Attributes:
        networks: What is trained: "generator_source_to_target", "generator_target_to_source", "discriminator_target",
            "discriminator_source".
        generators: The generators by direction.
        discriminators: The discriminators by the domain whose images they judge.
        optimizers: "generator" (both generators) and "discriminator" (both discriminators).
    """

    def __init__(self, config: CycleGanConfig, networks: Mapping[str, nn.Module], accelerator: Accelerator) -> None:
        """Moves the networks to the accelerator's device.

        Args:
            config: Weights of the losses, size of the image pools, and the optimisers' settings.
            networks: The four networks named above; discriminators take single images.
            accelerator: Device, precision and processes.
        """
        self._config = config
        self._accelerator = accelerator
        self.networks = dict(networks)
        self.generators = {way: self.networks[f"generator_{way}"] for way in ("source_to_target", "target_to_source")}
        self.discriminators = {domain: self.networks[f"discriminator_{domain}"] for domain in _DOMAINS}
        optimizers = build_optimizers(
            config, generator=self.generators.values(), discriminator=self.discriminators.values()
        )
        self._forward = prepare(accelerator, self.generators["source_to_target"], config)
        self._backward = prepare(accelerator, self.generators["target_to_source"], config)
        self._judges = {domain: prepare(accelerator, judge, config) for domain, judge in self.discriminators.items()}
        self.optimizers = optimizers
        self._random = random.Random(config.seed)  # noqa: S311 - no secret depends on it
        self._pools = {domain: ImagePool(config.image_pool_size, self._random) for domain in _DOMAINS}

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Updates both generators, then both discriminators with fakes from the image pools.

        Args:
            batch: Unpaired images on the accelerator's device.

        Returns:
            Detached scalars of this process. "generator" is the sum of "adversarial_<domain>",
            "cycle_<domain>" and "identity_<domain>" (of images of that domain). "discriminator" is the sum of
            "discriminator_<domain>" and, with `wgangp`, "gradient_penalty_<domain>". All parts are weighted.
        """
        for network in (self._forward, self._backward, *self._judges.values()):
            network.train()
        fakes: dict[str, Tensor] = {}
        generating: dict[str, Tensor] = {}
        with frozen(*self._judges.values()):
            parts = self._generate(batch, fakes)
            update(self._accelerator, self.optimizers["generator"], noting(parts, generating))
        generating["generator"] = total(generating)

        judging: dict[str, Tensor] = {}
        parts = self._judge(batch, fakes)
        update(self._accelerator, self.optimizers["discriminator"], noting(parts, judging))
        judging["discriminator"] = total(judging)
        return detached(generating | judging)

    def _generate(self, batch: Batch, fakes: dict[str, Tensor]) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """Yields the parts of the generators' loss by groups that share a graph, each with its share of the batch.

        It fills the generated images by domain, in the order of the batch.
        """
        made: dict[str, list[Tensor]] = {"target": [], "source": []}
        for share, images in parts_of(batch, self._config.images_per_pass):
            for losses in self._generate_part(images, made):
                yield share, losses
        fakes.update({domain: torch.cat(parts) if len(parts) > 1 else parts[0] for domain, parts in made.items()})

    def _generate_part(self, batch: Batch, made: dict[str, list[Tensor]]) -> Iterator[dict[str, Tensor]]:
        """Yields up to four groups: the way there and back from each domain, then the identity of each."""
        config, reals = self._config, {"source": batch.source, "target": batch.target}
        translators = {"target": self._forward, "source": self._backward}
        for origin, domain in (("source", "target"), ("target", "source")):
            with self._accelerator.autocast():
                fake = translators[domain](reals[origin])
                recovered = translators[origin](fake)
                losses = {
                    f"cycle_{origin}": config.cycle.weight * l1_loss(recovered, reals[origin]),
                    f"adversarial_{domain}": config.adversarial.weight
                    * generator_loss(config.adversarial.kind, self._judges[domain](fake)),
                }
            made[domain].append(fake.detach())
            yield losses
        if config.identity.weight > 0:
            weight = config.cycle.weight * config.identity.weight
            for domain in _DOMAINS:
                with self._accelerator.autocast():
                    same = translators[domain](reals[domain])
                    losses = {f"identity_{domain}": weight * l1_loss(same, reals[domain])}
                yield losses

    def _judge(self, batch: Batch, fakes: dict[str, Tensor]) -> Iterator[tuple[float, dict[str, Tensor]]]:
        """Yields each discriminator's loss, the mean of those on real and on past generated images, and penalty."""
        adversarial, reals = self._config.adversarial, {"target": batch.target, "source": batch.source}
        for domain, judge in self._judges.items():
            shown = Batch(source=self._pools[domain].exchange(fakes[domain]), target=reals[domain])
            for share, part in parts_of(shown, self._config.images_per_pass):
                fake, real = part.source, part.target
                with self._accelerator.autocast():
                    real_loss = discriminator_loss(adversarial.kind, judge(real), real=True)
                    fake_loss = discriminator_loss(adversarial.kind, judge(fake), real=False)
                    losses = {f"discriminator_{domain}": (real_loss + fake_loss) / 2}
                    if adversarial.kind == "wgangp":
                        penalty = gradient_penalty(judge, real, fake)
                        losses[f"gradient_penalty_{domain}"] = adversarial.gradient_penalty * penalty
                yield share, losses

    def extra_state(self) -> dict[str, Tensor]:
        """Returns the images of both pools and the state of their random numbers."""
        images = {f"pool_{domain}": pool.images() for domain, pool in self._pools.items()}
        return images | {"pool_random": random_state(self._random)}

    def load_extra_state(self, state: Mapping[str, Tensor]) -> None:
        """Restores what `extra_state` returned."""
        for domain, pool in self._pools.items():
            pool.restore(state[f"pool_{domain}"].to(self._accelerator.device))
        restore_random_state(self._random, state["pool_random"])
