"""Signs of health of a training, measured at evenly spread steps, for the rules that name the cause of a failure.

All of them are ratios, so that they mean the same for every size of network, image and loss:

    mean/<loss>                   mean of a loss since the last signs
    update/<generator …>          how far the last step of an optimiser moved its weights, relative to their size
    variation/<direction>         how much generated images differ from each other, relative to how much real ones do
    saturation/<direction>        share of generated values at the ends of the range, less that of real ones
    batch_dependence/<direction>  how much an image depends on what else is in its batch, relative to the variation of
                                  real ones
    teacher_<…>/<direction>       the same of a teacher that is learned from; once, after the first step

The generators are looked at in eval mode, on the images of the first batches. Nothing that training computes or draws
depends on it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from components.catlib.data.batches import Batch, TrainingBatches
from components.catlib.metrics.signs import NUM_IMAGES, look_at
from components.catlib.networks.directions import Direction, Domain
from components.catlib.training.progress import Objective

TIMES = 48
"""Most times that signs are noted in a training; the first step and the last are among them."""

TIMES_PER_LOOK = 4
"""The generators are looked at every so many times."""

Signs = dict[str, float]


def steps_with_signs(total_steps: int) -> frozenset[int]:
    """Returns the steps of a training, counted from 1, after which signs are noted."""
    spacing = _spacing(total_steps)
    return frozenset((1, total_steps, *range(spacing, total_steps + 1, spacing)))


def _spacing(total_steps: int) -> int:
    return max(1, total_steps // TIMES)


class SignsTaken:
    """Takes the signs of one training."""

    def __init__(
        self,
        objective: Objective,
        batches: TrainingBatches,
        *,
        total_steps: int,
        device: torch.device,
        teachers: Mapping[str, nn.Module] | None = None,
    ) -> None:
        """Reads the images that the generators are looked at with.

        Args:
            objective: What is trained.
            batches: The training images.
            total_steps: Optimisation steps of the whole training.
            device: The device of the generators.
            teachers: By direction, the generators that are learned from; none in the training of a teacher.
        """
        self._objective = objective
        self._batches = batches
        self._device = device
        self._spacing = _spacing(total_steps)
        self._due = steps_with_signs(total_steps)
        self.total_steps = total_steps
        self._images: Batch | None = None
        self._teachers = teachers or {}
        self._sums: dict[str, float] = {}
        self._steps = 0

    def after(self, step: int, losses: Mapping[str, float]) -> Signs | None:
        """Notes the losses of a step; returns the signs if they are due.

        Args:
            step: Optimisation steps done.
            losses: The losses of the last of them.
        """
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value
        self._steps += 1
        if step not in self._due:
            return None
        signs = {f"mean/{name}": total / self._steps for name, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        for side, optimizer in self._objective.optimizers.items():
            signs[f"update/{side}"] = relative_update(optimizer)
        if step in (1, self.total_steps) or step % (self._spacing * TIMES_PER_LOOK) == 0:
            signs |= self._look(self._objective.generators)
        if step == 1:
            signs |= {f"teacher_{name}": value for name, value in self._look(self._teachers).items()}
        return {name: value for name, value in signs.items() if math.isfinite(value)}

    def _look(self, generators: Mapping[str, nn.Module]) -> Signs:
        signs: Signs = {}
        for direction, generator in generators.items():
            inputs, real = self._seen(Direction(direction))
            signs |= {f"{name}/{direction}": value for name, value in look_at(generator, inputs, real).items()}
        return signs

    def _seen(self, direction: Direction) -> tuple[Tensor, Tensor]:
        """Returns the input images of a direction, and real images of the domain that it translates to."""
        if self._images is None:
            self._images = self._batches.sample(NUM_IMAGES).to(self._device)
        images = {Domain.SOURCE: self._images.source, Domain.TARGET: self._images.target}
        return images[direction.input], images[direction.output]


@torch.no_grad()
def relative_update(optimizer: Optimizer) -> float:
    """Returns ‖last step‖ / ‖weights‖ of an Adam, over the weights of convolutions; 0 before the first step."""
    moved, size = torch.zeros(()), torch.zeros(())
    for group in optimizer.param_groups:
        first, second = group["betas"]
        for weight in group["params"]:
            state = optimizer.state.get(weight)
            if not state or weight.ndim < 2:
                continue
            steps = state["step"]
            mean, square = state["exp_avg"] / (1 - first**steps), state["exp_avg_sq"] / (1 - second**steps)
            moved = moved.to(weight.device) + (group["lr"] * mean / (square.sqrt() + group["eps"])).square().sum()
            size = size.to(weight.device) + weight.square().sum()
    return float((moved / size.clamp(min=1e-30)).sqrt())
