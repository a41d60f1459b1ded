"""Learning-rate schedules: the factor on every learning rate as a pure function of the epoch and the scores so far.

Nothing here keeps a state, so a resumed training continues its schedule exactly.

Differs: the published implementation restarts the schedule when training resumes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from components.catlib.config import TrainingConfig
from components.catlib.config.schedules import CosineConfig, LinearConfig, OneCycleConfig, PlateauConfig, StepConfig

STEP_FACTOR = 0.1
PLATEAU_FACTOR = 0.2
PLATEAU_THRESHOLD = 0.01


def learning_rate_factor(config: TrainingConfig, step: int, scores: Sequence[float], *, steps_per_epoch: int) -> float:
    """Returns the factor on every learning rate in one step.

    Args:
        config: Supplies the schedule and its numbers.
        step: The step, counted from 0.
        scores: The scores of all evaluations so far, oldest first, lower is better; only `plateau` uses them.
        steps_per_epoch: Steps of an epoch; only `one_cycle` changes the factor within one.

    Returns:
        A factor in [0, 1].
    """
    epoch = step // steps_per_epoch
    match config.schedule:
        case LinearConfig():
            return linear(epoch, epochs=config.epochs, decay_epochs=config.decay_epochs)
        case StepConfig(epochs=epochs):
            return STEP_FACTOR ** (epoch // epochs)
        case CosineConfig():
            return cosine(epoch, total_epochs=config.epochs + config.decay_epochs)
        case OneCycleConfig(warm_up=warm_up):
            return one_cycle(step, total_steps=config.total_steps(steps_per_epoch), warm_up=warm_up)
        case PlateauConfig(patience=patience):
            return plateau(scores, patience=patience)


def linear(epoch: int, *, epochs: int, decay_epochs: int) -> float:
    """Returns 1 for `epochs` epochs, then falls in equal steps to 0 just after the last epoch (method section 4).

    With epochs = 2 and decay_epochs = 3 the five epochs train with 1, 1, 0.75, 0.5, 0.25.
    """
    return 1 - max(0, epoch + 1 - epochs) / (decay_epochs + 1)


def cosine(epoch: int, *, total_epochs: int) -> float:
    """Returns half a cosine wave, 1 in the first epoch and 0 just after the last (Loshchilov & Hutter 2017, eq. 5)."""
    return (1 + math.cos(math.pi * epoch / total_epochs)) / 2


def one_cycle(step: int, *, total_steps: int, warm_up: float) -> float:
    """Returns a factor that rises in equal steps to 1, then falls along half a cosine wave to 0 after the last step.

    Smith & Topin 2019, section 4, with the cosine of most implementations in place of their second straight line.

    Args:
        step: The step, counted from 0.
        total_steps: Number of steps of the training.
        warm_up: Share of the steps over which the factor rises, in [0, 1).
    """
    rising = int(warm_up * total_steps)
    if step < rising:
        return (step + 1) / (rising + 1)
    return (1 + math.cos(math.pi * (step - rising) / (total_steps - rising))) / 2


def plateau(scores: Sequence[float], *, patience: int) -> float:
    """Returns 1/5 to the power of the number of drops so far.

    A drop comes after more than `patience` scores in a row without improvement. An improvement is a score more than 1 %
    below the best one before it. After a drop the count starts anew.

    Args:
        scores: All scores so far, oldest first, lower is better, not negative.
        patience: Number of scores in a row that may bring no improvement.
    """
    factor, best, without_improvement = 1.0, math.inf, 0
    for score in scores:
        if score < best * (1 - PLATEAU_THRESHOLD):
            best, without_improvement = score, 0
        else:
            without_improvement += 1
        if without_improvement > patience:
            factor, without_improvement = factor * PLATEAU_FACTOR, 0
    return factor


def evaluations_without_improvement(scores: Sequence[float]) -> int:
    """Returns the number of scores after the best one.

    Args:
        scores: All scores so far, oldest first, lower is better.
    """
    return len(scores) - 1 - scores.index(min(scores)) if scores else 0
