"""How much memory of a device a training needs: its weights, and the activations at the fullest moment of a step.

Each moment of a step is a sum here, in the order in which the step's objective comes to it. What the driver, the
libraries' workspaces and the allocator's gaps take is not in it.
"""

from __future__ import annotations

from collections.abc import Iterator

from components.catlib.config import (
    CycleGanConfig,
    DistillConfig,
    Pix2PixConfig,
    Pix2PixDistillConfig,
    SpadeConfig,
    SpadeDistillConfig,
    TeacherConfig,
    TrainingConfig,
)
from components.catlib.config.distillers import FeatureConfig, MseConfig, OmgdConfig
from components.catlib.footprint.networks import (
    VGG_PARAMETERS,
    Activations,
    discriminator_activations,
    discriminator_parameters,
    generator_activations,
    perceptual_activations,
)
from components.catlib.footprint.stating import BYTES, Footprint
from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.discriminator_architecture import DiscriminatorArchitecture
from components.catlib.networks.layers import ImageSize
from components.catlib.networks.macs import parameters

PER_TRAINED_WEIGHT = 4
"""Values for each learned one: itself, its gradient, and two moments of Adam."""


def teacher_footprint(
    config: TeacherConfig,
    generator: GeneratorArchitecture,
    discriminator: DiscriminatorArchitecture,
    size: ImageSize,
    *,
    processes: int = 1,
) -> Footprint:
    """Returns what the training of a teacher needs on each device.

    Args:
        config: The recipe's `teacher` section.
        generator: The architecture of each generator.
        discriminator: The architecture of each discriminator.
        size: Height and width of the images in pixels.
        processes: Number of processes that share a batch.
    """
    step = _Step(config, generator, discriminator, size, processes)
    match config:
        case Pix2PixConfig():
            return step.footprint(_paired(step, vgg=config.reconstruction.kind == "vgg"))
        case CycleGanConfig():
            pools = 2 * config.image_pool_size * step.image
            return step.footprint(_cyclegan(step), directions=2, held=pools)
        case SpadeConfig():
            return step.footprint(_labels(step, vgg=config.perceptual.weight > 0))


def student_footprint(
    config: DistillConfig,
    student: GeneratorArchitecture,
    teacher: GeneratorArchitecture,
    discriminator: DiscriminatorArchitecture,
    size: ImageSize,
    *,
    processes: int = 1,
) -> Footprint:
    """Returns what the training of a student needs on each device.

    Args:
        config: The recipe's `distill` section.
        student: The student's architecture.
        teacher: The architecture of its teacher, which is held as well.
        discriminator: The architecture of the discriminator.
        size: Height and width of the images in pixels.
        processes: Number of processes that share a batch.
    """
    step = _Step(config, student, discriminator, size, processes)
    seen = generator_activations(teacher, size)
    features = compared = 0
    if isinstance(config.distiller, FeatureConfig) and config.distiller.weight > 0:
        features = seen.features
        # MSE and OMGD keep the adapted features, kernel alignment the student's, scaled.
        compared = seen.features if isinstance(config.distiller, MseConfig | OmgdConfig) else step.generator.features
    image = step.image if config.distiller.compares_outputs else 0
    match config:
        case SpadeDistillConfig():
            moments = _labels(step, vgg=config.perceptual.weight > 0)
        case _:
            paired = isinstance(config, Pix2PixDistillConfig)
            image = image if paired or config.reconstruction.weight == 0 else step.image
            vgg = config.reconstruction.kind == "vgg" and config.reconstruction.weight > 0
            moments = _paired(step, vgg=vgg, conditional=paired)
    taught = ((count, values + features + image + compared) for count, values in moments)
    return step.footprint([*taught, (step.count, seen.passing + features)], frozen=parameters(teacher))


class _Step:
    """Numbers of values in a step, for one image."""

    def __init__(
        self,
        config: TrainingConfig,
        generator: GeneratorArchitecture,
        discriminator: DiscriminatorArchitecture,
        size: ImageSize,
        processes: int,
    ) -> None:
        self.config = config
        pixels = size[0] * size[1]
        self.source, self.image = generator.in_channels * pixels, generator.out_channels * pixels
        self.generator = generator_activations(generator, size, recomputing=config.recompute_activations)
        self.discriminator = discriminator_activations(discriminator, size)
        self.perceptual = perceptual_activations(size)
        self.images = -(-config.batch_size // processes)
        self.count = min(self.images, config.images_per_pass or self.images)
        self.whole = self.count == self.images
        self.trained = parameters(generator), discriminator_parameters(discriminator)

    @property
    def judging(self) -> Activations:
        """What a discriminator keeps; a gradient penalty runs it once more, and differentiates it twice."""
        judged = self.discriminator
        penalised = self.config.adversarial.kind == "wgangp"
        return judged._replace(kept=3 * judged.kept) if penalised else judged

    def footprint(
        self,
        moments: Iterator[tuple[int, int]] | list[tuple[int, int]],
        *,
        directions: int = 1,
        held: int = 0,
        frozen: int = 0,
    ) -> Footprint:
        """Returns the largest of the moments, each a number of images and of values for each of them.

        Args:
            moments: The moments.
            directions: Number of generators, each with a discriminator.
            held: Values that are held all the time.
            frozen: Learned values of networks that do not learn here.
        """
        generator, discriminator = self.trained
        averages = generator if self.config.ema_decay else 0
        trained = PER_TRAINED_WEIGHT * (generator + discriminator) + averages
        perceptual = VGG_PARAMETERS if self.uses_perceptual else 0
        images = self.images * (self.source + self.image) + held
        value = BYTES if self.config.precision == "fp32" else 2
        fullest = max(count * values for count, values in moments)
        return Footprint(BYTES * (directions * trained + frozen + perceptual), BYTES * images + value * fullest)

    @property
    def uses_perceptual(self) -> bool:
        """Whether VGG19 is loaded."""
        config = self.config
        match config:
            case SpadeConfig() | SpadeDistillConfig():
                return config.perceptual.weight > 0
            case CycleGanConfig():
                return False
        reconstruction = getattr(config, "reconstruction", None)
        return reconstruction is not None and reconstruction.kind == "vgg"


def _paired(step: _Step, *, vgg: bool, conditional: bool = True) -> Iterator[tuple[int, int]]:
    generator, judge = step.generator, step.judging
    shown = step.image + (step.source if conditional else 0)
    graph = generator.kept + step.image if step.whole else 0  # in parts, the image is made again for the generator
    yield step.count, graph + 2 * judge.kept + 2 * shown + judge.passing
    yield from _judged(step, step.discriminator.kept + shown, vgg=vgg)


def _cyclegan(step: _Step) -> Iterator[tuple[int, int]]:
    generator, judge, fakes = step.generator, step.judging, 2 * step.image
    there_and_back = 2 * generator.kept + fakes
    yield step.count, there_and_back + max(judge.kept + judge.passing, generator.passing)
    yield step.count, 2 * judge.kept + judge.passing + 2 * fakes


def _labels(step: _Step, *, vgg: bool) -> Iterator[tuple[int, int]]:
    judge, shown = step.judging, 2 * (step.source + step.image)
    yield from _judged(step, 2 * step.discriminator.kept + shown, vgg=vgg)
    yield step.count, 2 * judge.kept + shown + 2 * judge.passing


def _judged(step: _Step, judging: int, *, vgg: bool) -> Iterator[tuple[int, int]]:
    """Yields the moments of a generator's step: its losses are computed, then its own gradient."""
    generator = step.generator
    seen = step.perceptual if vgg else Activations(0)
    yield step.count, generator.kept + judging + seen.kept + max(seen.passing, step.discriminator.passing)
    yield step.count, generator.kept + generator.passing
