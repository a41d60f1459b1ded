"""Optimisation steps as their papers' code takes them: one class per family and one for distillation.

They compute what the pipeline's objectives compute with the settings of `steps.py`: least squares for images, hinge
for label maps, no VGG19.
"""

import random
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional

Losses = dict[str, Tensor]


def adam(*networks: nn.Module, rate: float = 2e-4, betas: tuple[float, float] = (0.5, 0.999)) -> torch.optim.Adam:
    return torch.optim.Adam([weight for network in networks for weight in network.parameters()], lr=rate, betas=betas)


def set_requires_grad(network: nn.Module, wanted: bool) -> None:
    for weight in network.parameters():
        weight.requires_grad_(wanted)


def to_one(logits: Tensor) -> Tensor:
    return functional.mse_loss(logits, torch.ones_like(logits))


def to_zero(logits: Tensor) -> Tensor:
    return functional.mse_loss(logits, torch.zeros_like(logits))


def unit_kernel(features: Tensor) -> Tensor:
    samples = features.flatten(1)
    kernel = samples @ samples.T
    return kernel / kernel.norm()


def misalignment(ours: list[Tensor], theirs: list[Tensor]) -> Tensor:
    return -sum((unit_kernel(a) * unit_kernel(b)).sum() for a, b in zip(ours, theirs, strict=True))


class PlainPix2Pix:
    """A teacher on pairs; with a teacher of its own, a student that learns from its features and from the pairs."""

    paired = True

    def __init__(self, networks: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        self.generator, self.discriminator = networks["generator"], networks["discriminator"]
        self.teacher, self.weights = networks.get("teacher"), weights
        self.of_generator, self.of_discriminator = adam(self.generator), adam(self.discriminator)
        if self.teacher is not None:
            self.teacher.eval()

    def shown(self, source: Tensor, image: Tensor) -> Tensor:
        return torch.cat([source, image], dim=1) if self.paired else image

    def step(self, source: Tensor, target: Tensor) -> Losses:
        self.generator.train()
        self.discriminator.train()
        if self.teacher is not None:
            with torch.no_grad():
                taught, wanted = self.teacher(source)
        fake, features = self.generator(source)
        self.of_discriminator.zero_grad()
        judged = to_zero(self.discriminator(self.shown(source, fake.detach())))
        judged = (judged + to_one(self.discriminator(self.shown(source, target)))) / 2
        judged.backward()
        self.of_discriminator.step()
        set_requires_grad(self.discriminator, False)
        self.of_generator.zero_grad()
        adversarial = to_one(self.discriminator(self.shown(source, fake)))
        goal = target if self.paired else taught
        loss = adversarial + self.weights["reconstruction"] * functional.l1_loss(fake, goal)
        if self.teacher is not None:
            loss = loss + misalignment(features, wanted)
        loss.backward()
        self.of_generator.step()
        set_requires_grad(self.discriminator, True)
        return {"generator": loss, "discriminator": judged}


class PlainUnpairedStudent(PlainPix2Pix):
    """A student that learns from the translations of a CycleGAN teacher, against a discriminator of images alone."""

    paired = False


class PlainCycleGan:
    """A teacher without pairs: all six translations, one loss, one backward pass."""

    def __init__(self, networks: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        self.forward, self.backward = networks["generator"], networks["generator_back"]
        self.judges = networks["discriminator"], networks["discriminator_back"]
        self.weights, self.pools = weights, ([], [])
        self.random = random.Random(0)
        self.of_generators = adam(self.forward, self.backward)
        self.of_discriminators = adam(*self.judges)

    def step(self, source: Tensor, target: Tensor) -> Losses:
        for network in (self.forward, self.backward, *self.judges):
            network.train()
        for judge in self.judges:
            set_requires_grad(judge, False)
        self.of_generators.zero_grad()
        fake_target, fake_source = self.forward(source)[0], self.backward(target)[0]
        back_source, back_target = self.backward(fake_target)[0], self.forward(fake_source)[0]
        same_target, same_source = self.forward(target)[0], self.backward(source)[0]
        cycle, identity = self.weights["cycle"], self.weights["identity"]
        loss = to_one(self.judges[0](fake_target)) + to_one(self.judges[1](fake_source))
        loss = loss + cycle * (functional.l1_loss(back_source, source) + functional.l1_loss(back_target, target))
        same = functional.l1_loss(same_source, source) + functional.l1_loss(same_target, target)
        loss = loss + cycle * identity * same
        loss.backward()
        self.of_generators.step()
        self.of_discriminators.zero_grad()
        judged = torch.zeros((), device=loss.device)
        pairs = zip(self.judges, (target, source), (fake_target, fake_source), self.pools, strict=True)
        for judge, real, fake, pool in pairs:
            set_requires_grad(judge, True)
            judged = judged + (to_one(judge(real)) + to_zero(judge(self.pooled(fake.detach(), pool)))) / 2
        judged.backward()
        self.of_discriminators.step()
        return {"generator": loss, "discriminator": judged}

    def pooled(self, images: Tensor, pool: list[Tensor]) -> Tensor:
        found = []
        for image in images:
            if len(pool) < 50:
                pool.append(image.clone())
                found.append(image)
            elif self.random.uniform(0, 1) > 0.5:
                index = self.random.randint(0, 49)
                found.append(pool[index])
                pool[index] = image.clone()
            else:
                found.append(image)
        return torch.stack(found)


class PlainGauGan:
    """A teacher on label maps, or with a teacher of its own its student."""

    def __init__(self, networks: Mapping[str, nn.Module], weights: Mapping[str, float]) -> None:
        self.generator, self.discriminator = networks["generator"], networks["discriminator"]
        self.teacher, self.weights = networks.get("teacher"), weights
        self.of_generator, self.of_discriminator = adam(self.generator), adam(self.discriminator)
        if self.teacher is not None:
            self.teacher.eval()

    def judge(self, source: Tensor, fake: Tensor, real: Tensor) -> tuple[list[list[Tensor]], list[list[Tensor]]]:
        pairs = torch.cat([torch.cat([source, fake], dim=1), torch.cat([source, real], dim=1)])
        scales, half = self.discriminator(pairs), len(fake)
        return [[each[:half] for each in scale] for scale in scales], [[each[half:] for each in s] for s in scales]

    def step(self, source: Tensor, target: Tensor) -> Losses:
        self.generator.train()
        self.discriminator.train()
        if self.teacher is not None:
            with torch.no_grad():
                _, wanted = self.teacher(source)
        set_requires_grad(self.discriminator, False)
        self.of_generator.zero_grad()
        fake, features = self.generator(source)
        ours, theirs = self.judge(source, fake, target)
        loss = sum(-scale[-1].mean() for scale in ours) / len(ours)
        matching = sum(
            functional.l1_loss(a, b.detach())
            for one, other in zip(ours, theirs, strict=True)
            for a, b in zip(one[:-1], other[:-1], strict=True)
        )
        loss = loss + self.weights["feature_matching"] * matching / len(ours)
        if self.teacher is not None:
            loss = loss + misalignment(features, wanted)
        loss.backward()
        self.of_generator.step()
        set_requires_grad(self.discriminator, True)
        self.of_discriminator.zero_grad()
        with torch.no_grad():
            painted = self.generator(source)[0]
        ours, theirs = self.judge(source, painted, target)
        judged = sum(functional.relu(1 + scale[-1]).mean() for scale in ours) / len(ours)
        judged = judged + sum(functional.relu(1 - scale[-1]).mean() for scale in theirs) / len(theirs)
        judged.backward()
        self.of_discriminator.step()
        return {"generator": loss, "discriminator": judged}


PLAIN_STEPS = {
    ("pix2pix", "teacher"): PlainPix2Pix,
    ("pix2pix", "distill"): PlainPix2Pix,
    ("cyclegan", "teacher"): PlainCycleGan,
    ("cyclegan", "distill"): PlainUnpairedStudent,
    ("spade", "teacher"): PlainGauGan,
    ("spade", "distill"): PlainGauGan,
}
