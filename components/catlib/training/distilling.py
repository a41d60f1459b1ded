"""Makes the objective that trains a student from a recipe's section: the networks and their first weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import nn

from components.catlib.config import DistillConfig, WeightsConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import OpenedNetworks
from components.catlib.networks.batch_dependence import settle_norms
from components.catlib.networks.directions import Direction
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.families import build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.model_files import read_discriminator, read_generator
from components.catlib.networks.published.discriminators import load_discriminator
from components.catlib.networks.published.generators import load_generator
from components.catlib.objectives.distillation import DistillationObjective, distillation_objective
from components.catlib.objectives.feature_distillation import own_networks
from components.catlib.storage import local_copy, shown
from components.catlib.training.building import SEEDS_PER_RUN, check_judged_channels, published_weights
from components.catlib.training.perceptual_weights import wanted_perceptual_loss


def build_distillation_objective(
    config: DistillConfig,
    *,
    teacher: OpenedNetworks,
    student: OpenedNetworks,
    accelerator: Accelerator,
) -> DistillationObjective:
    """Makes the objective that distils a teacher into the student that was cut from it.

    The student starts from published weights, from inherited weights in its folder, or from fresh ones. The
    discriminator starts from published weights, from those of the teacher's discriminator, or from fresh ones.

    Args:
        config: The distill section of a recipe.
        teacher: The opened artifact of the teacher stage.
        student: The opened artifact of the prune stage: one generator, whose direction chooses the teacher's generator
            and discriminator.
        accelerator: Device, precision and processes.

    Raises:
        UserError: A network is missing, the student does not fit the teacher, weights cannot be read, or the student's
            batch norms keep no running statistics though it is trained.
    """
    direction = student.only_direction
    perceptual = wanted_perceptual_loss(config, accelerator.device)
    teaching = read_generator(teacher, direction)
    fresh = _FreshWeights(
        kind=config.init,
        gain=config.init_gain,
        seed=SEEDS_PER_RUN * config.seed + 4,  # after those of a teacher with the same seed
    )
    published_student, published_discriminator = published_weights(config.published, direction)
    learning = _student(published_student, student, direction, fresh)
    _check_student(learning, teaching)
    settle_norms(
        learning,
        trains=config.trains,
        where=f"The student of {shown(published_student.uri) if published_student else student.folder}",
        advice="set prune.student_norm.track_running_stats: true with prune.student_init: fresh, prune again, and "
        "start from weights with them, or from none",
    )
    judge = _student_discriminator(config, published_discriminator, teacher, direction, fresh)
    networks: dict[str, nn.Module] = {f"generator_{direction}": learning, f"discriminator_{direction.output}": judge}
    own = own_networks(config.distiller, learning, teaching, judge)
    for number, (name, network) in enumerate(own.items(), start=2):
        networks[name] = network
        fresh.draw(network, number=number)
    return distillation_objective(
        config, networks, accelerator, teacher=teaching, direction=direction, perceptual=perceptual
    )


@dataclass(frozen=True)
class _FreshWeights:
    """How the new networks of a distillation are initialised."""

    kind: Literal["normal", "xavier"]
    gain: float
    seed: int

    def draw(self, network: nn.Module, *, number: int) -> None:
        """Draws the weights of a network; every number gives other weights."""
        initialise(network, kind=self.kind, gain=self.gain, seed=self.seed + number)


def _student(
    published: WeightsConfig | None, networks: OpenedNetworks, direction: Direction, fresh: _FreshWeights
) -> Generator:
    architecture = networks.architectures.generator(direction)
    if published is not None:
        return load_generator(
            local_copy(published.uri), like=architecture, input_size=networks.input_size, sha256=published.sha256
        )
    if networks.has_weights(direction):
        return read_generator(networks, direction, alone=False)
    student = build_generator(architecture)
    fresh.draw(student, number=0)
    return student


def _check_student(student: Generator, teacher: Generator) -> None:
    """Refuses a student that cannot have been cut from the teacher: other inputs, outputs or layers to compare."""
    ours, theirs = student.architecture, teacher.architecture
    for what in ("family", "in_channels", "out_channels"):
        if getattr(ours, what) != getattr(theirs, what):
            raise UserError(
                f"The student does not fit the teacher: its {what} is {getattr(ours, what)}, the teacher's "
                f"{getattr(theirs, what)}; give the teacher that it was pruned from."
            )
    if student.distillation_layers != teacher.distillation_layers:
        raise UserError(
            f"The student does not fit the teacher: its feature layers are {', '.join(student.distillation_layers)}, "
            f"the teacher's {', '.join(teacher.distillation_layers)}; give the teacher that it was pruned from."
        )


def _student_discriminator(
    config: DistillConfig,
    published: WeightsConfig | None,
    teacher: OpenedNetworks,
    direction: Direction,
    fresh: _FreshWeights,
) -> Discriminator:
    architecture = teacher.architectures.discriminator(direction.output)
    if published is not None:
        network = load_discriminator(local_copy(published.uri), like=architecture, sha256=published.sha256)
        check_judged_channels(network, architecture.in_channels, published)
        return network
    if config.discriminator == "teacher":
        return read_discriminator(teacher, direction.output)
    network = build_discriminator(architecture)
    fresh.draw(network, number=1)
    return network
