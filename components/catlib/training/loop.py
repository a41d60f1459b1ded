"""The training loop, for teachers of every family and for distillation: `train` is all of it, from top to bottom.

The *objective* is what is trained: it takes one optimisation step on a batch and names its losses. Everything else is
here: the order of batches, the learning rate, the log, evaluations, checkpoints, and the choice of the resulting
weights. `train` is longer than other functions, so that a whole step can be read in one place.

A training is a pure function of its configuration and its data: on one kind of CPU, two runs end with equal weights,
even if one of them was killed and resumed. So batches depend on seed and step alone, schedules depend on epoch and
scores alone, and a checkpoint holds everything else that changes.
"""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from components.catlib.config import TrainingConfig
from components.catlib.data.batches import TrainingBatches
from components.catlib.data.reading_ahead import reading_ahead
from components.catlib.distributed.devices import Accelerator
from components.catlib.distributed.ending import ending_together
from components.catlib.distributed.processes import (
    agreed,
    average_buffers,
    from_main,
    same_weights,
    share_of_batch,
    to_main,
)
from components.catlib.errors import Interrupted
from components.catlib.exits import on_stop
from components.catlib.training.checking import CHECK_SECONDS, Checks
from components.catlib.training.checkpoints import Checkpoints, on_cpu
from components.catlib.training.log import LogWriter, open_log
from components.catlib.training.moving_average import MovingAverages
from components.catlib.training.progress import Evaluation, Objective, Progress, Stateful, opponents
from components.catlib.training.schedules import evaluations_without_improvement, learning_rate_factor
from components.catlib.training.signs import steps_with_signs
from components.catlib.training.upkeep import Upkeep
from components.catlib.training.watching import Watch, give_up, watched

logger = logging.getLogger(__name__)


@ending_together()
def train(
    objective: Objective,
    *,
    config: TrainingConfig,
    batches: TrainingBatches,
    evaluate: Callable[[Mapping[str, nn.Module]], Evaluation] | None,
    folder: Path,
    accelerator: Accelerator,
    upkeep: Upkeep,
    checkpoints: Checkpoints | None = None,
    begin: Callable[[], dict[str, Any] | None] | None = None,
    watch: Watch | None = None,
) -> Progress:
    """Trains an objective, from its newest checkpoint if there is one, and leaves the result in its networks.

    `config.keep` chooses the result: the best weights of each direction, or the weights of the last step. The best
    weights have the lowest Fréchet distance or, on Cityscapes with a segmenter, the highest mIoU (method section 4).
    Without evaluations the result is always the last step.

    Several processes train together, each with a share of every batch; the first one alone evaluates and keeps
    checkpoints. On a GPU the program does not wait for every step; what it does between steps, it does at `Checks`.

    Args:
        objective: The objective to train; its networks are on the accelerator's device.
        config: Length, schedule, reporting.
        batches: The training images.
        evaluate: Scores the generators, given by direction, on held-out images. It changes neither them nor torch's
            global random numbers. It is called `config.evaluations` times, evenly spread; None: never.
        folder: The folder that gets `log.jsonl`, `tensorboard/` and `samples_<step>.webp` of every evaluation.
        accelerator: Device, precision and processes.
        upkeep: How often to save and to log.
        checkpoints: The checkpoints of this training, in the main process; without them a killed training starts anew.
        begin: Returns the state to begin with, in the main process; None: that of the newest checkpoint.
        watch: Judges the training's health, in the main process; None: nobody does.

    Returns:
        How far the training came, its scores, and the result of each direction.

    Raises:
        RuntimeError: A loss is not finite, or a weight that would be scored or kept is not.
        Interrupted: The process was asked to stop; the state is saved if there are checkpoints. After a second Ctrl-C,
            the state since the last checkpoint is lost.
        EndedElsewhere: Another of several processes has failed.
        UserError: Checkpoints cannot be read or written, the batch cannot be shared by the processes, or the training
            fails in a way that `config.stop_on` names; the state is saved if there are checkpoints.
    """
    total_steps = config.total_steps(batches.steps_per_epoch)
    evaluation_steps = {round(total_steps * (i + 1) / config.evaluations) for i in range(config.evaluations)}
    sign_steps = steps_with_signs(total_steps)
    time_limit = config.time_limit_seconds or math.inf
    memory_format = torch.channels_last if config.channels_last else torch.preserve_format
    rows = share_of_batch(accelerator, config.batch_size)
    torch.manual_seed(config.seed + accelerator.process_index)
    averages = MovingAverages(objective.generators, decay=config.ema_decay)
    begin = begin or (checkpoints.resume if checkpoints else None)
    saves, progress = _resume(objective, averages, begin, accelerator)
    started = time.monotonic() - progress.seconds
    progress.ended = _reason_to_end(config, progress, total_steps, out_of_time=progress.seconds >= time_limit)
    steps = range(progress.step, progress.step if progress.ended else total_steps)
    checks = Checks(
        accelerator,
        total_steps=total_steps,
        planned=evaluation_steps | sign_steps,
        seconds=min(CHECK_SECONDS, upkeep.log_seconds, upkeep.checkpoint_seconds),
    )

    with (
        _reporting(folder, progress, config=config, total_steps=total_steps, seconds=upkeep.log_seconds) as log,
        _stoppable(progress, total_steps, checkpoints) as stop,
        checkpoints or contextlib.nullcontext(),
        reading_ahead(batches, steps, rows, device=accelerator.device, memory_format=memory_format) as upcoming,
    ):
        for step, batch in upcoming:
            epoch = step // batches.steps_per_epoch
            factor = learning_rate_factor(config, step, progress.scores, steps_per_epoch=batches.steps_per_epoch)
            _set_learning_rates(objective, factor)

            checks.note(objective.step(batch))
            average_buffers(accelerator, objective.networks.values())
            averages.update()
            progress.step = step + 1
            if not checks.due(progress.step):
                continue

            losses, (out_of_time, interrupted, overdue) = checks.check(
                progress.step,
                time.monotonic() - started >= time_limit,
                stop.is_set(),
                checkpoints is not None and checkpoints.due(upkeep.checkpoint_seconds),
            )
            progress.seconds = time.monotonic() - started
            rate = objective.optimizers["generator"].param_groups[0]["lr"]
            log.steps(progress.step, epoch=epoch, seconds=progress.seconds, learning_rate=rate, losses=losses)
            failing = watched(watch, progress.step, epoch=epoch, losses=losses, log=log)
            given_up = progress.step in sign_steps and any(agreed(accelerator, failing))

            evaluated = evaluate is not None and (progress.step in evaluation_steps or out_of_time)
            if evaluated or overdue or interrupted or given_up or out_of_time or progress.step == total_steps:
                _check_weights(objective.networks, progress.step, total_steps)
            if evaluate and evaluated:
                with log.paused(), averages.in_place(), accelerator.measuring():
                    evaluation = from_main(accelerator, lambda: evaluate(objective.generators))
                    progress.note(evaluation, objective, keep=config.keep)
                    log.scores(progress.step, epoch=epoch, scores=evaluation.flat())
                    _picture_path(folder, progress.step).write_bytes(evaluation.picture)

            progress.ended = _reason_to_end(config, progress, total_steps, out_of_time=out_of_time)
            last = interrupted or given_up or bool(progress.ended)
            if saves and (evaluated or overdue or last):
                with log.paused():
                    state = _state(objective, averages, progress, accelerator)
                    if checkpoints is not None:
                        checkpoints.save(progress.step, state, score=progress.scores[-1] if evaluated else None)
            if progress.ended and not given_up:
                break
            if last:
                from_main(accelerator, lambda: give_up(watch))
                raise Interrupted(_farewell(progress, total_steps, saved=saves))
            checks.resume()

    if not progress.kept:
        averages.apply()
    for direction, kept in progress.kept.items():
        for name, network in opponents(objective, direction).items():
            network.load_state_dict(kept["networks"][name])
    return progress


def _set_learning_rates(objective: Objective, factor: float) -> None:
    """Sets learning rates to the initial ones times a factor."""
    for optimizer in objective.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor


def _check_weights(networks: Mapping[str, nn.Module], step: int, total_steps: int) -> None:
    """Checks the weights after a step: a finite loss can have a gradient that is not, and only the next loss shows it.

    Raises:
        RuntimeError: A weight or a running statistic is NaN or infinite.
    """
    for name, network in networks.items():
        finite = [tensor.isfinite().all() for tensor in network.state_dict().values()]
        if finite and not torch.stack(finite).all():
            raise RuntimeError(
                f"{name} has weights that are not finite after step {step} of {total_steps}; the training has "
                "diverged. Lower learning_rate; checkpoints of earlier steps are not affected."
            )


def _reason_to_end(config: TrainingConfig, progress: Progress, total_steps: int, *, out_of_time: bool) -> str:
    """Returns why training is over after this step; empty when it is not."""
    if progress.step == total_steps:
        return "epochs"
    if config.patience and evaluations_without_improvement(progress.scores) >= config.patience:
        return "patience"
    return "time limit" if out_of_time else ""


@contextlib.contextmanager
def _stoppable(progress: Progress, total_steps: int, checkpoints: Checkpoints | None) -> Iterator[threading.Event]:
    """Gives an event that SIGTERM, SIGHUP or Ctrl-C sets; a second Ctrl-C ends the body at once."""
    stop = threading.Event()
    with on_stop(stop.set):
        try:
            yield stop
        except KeyboardInterrupt:
            saved = checkpoints.newest_step if checkpoints else None
            lost = f"The state after step {saved} is lost: run the same command again to go on from there."
            if not saved:
                lost = "The state of training is lost: the same command starts over."
            raise Interrupted(f"Stopped at once after step {progress.step} of {total_steps}. {lost}") from None


def _farewell(progress: Progress, total_steps: int, *, saved: bool) -> str:
    state = (
        "saved: run the same command again to resume"
        if saved
        else "lost, because there is no checkpoint folder: the same command starts over"
    )
    return f"Stopped after step {progress.step} of {total_steps}; the state of training is {state}."


def _state(
    objective: Objective, averages: MovingAverages, progress: Progress, accelerator: Accelerator
) -> dict[str, Any]:
    """Returns everything that determines the rest of a training, in plain containers; all processes take part.

    Only the main process gets what the others hold.
    """
    scaler = accelerator.scaler
    own = {
        "objective": objective.extra_state() if isinstance(objective, Stateful) else {},
        "random": torch.get_rng_state(),
        "device_random": accelerator.random_state(),
    }
    return {
        "networks": {name: network.state_dict() for name, network in objective.networks.items()},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in objective.optimizers.items()},
        "averages": averages.state_dict(),
        "scaler": scaler.state_dict() if scaler is not None else {},
        "processes": to_main(accelerator, on_cpu(own)),
        "progress": vars(progress),
    }


def _resume(
    objective: Objective,
    averages: MovingAverages,
    begin: Callable[[], dict[str, Any] | None] | None,
    accelerator: Accelerator,
) -> tuple[bool, Progress]:
    """Puts an objective into the state to begin with, such as that of the newest checkpoint; without one, step 0.

    Returns whether the main process keeps checkpoints, and how far the training has come.

    The number of processes may have changed. Weights, optimisers and the order of images do not depend on it. But every
    process has its own random numbers and image pools; these are then shared out anew, and the rest of the training is
    as good as without the change, but not the same.
    """
    saves, state = from_main(accelerator, lambda: (begin is not None, begin() if begin else None))
    if state is None:
        same_weights(accelerator, objective.networks.values())
        return saves, Progress()
    for name, network in objective.networks.items():
        network.load_state_dict(state["networks"][name])
    for name, optimizer in objective.optimizers.items():
        optimizer.load_state_dict(state["optimizers"][name])
    progress = Progress(**state["progress"])
    averages.load_state_dict(state["averages"], step=progress.step)
    if accelerator.scaler is not None and state["scaler"]:
        accelerator.scaler.load_state_dict(state["scaler"])
    owners, index = state["processes"], accelerator.process_index
    own = owners[index % len(owners)]
    if isinstance(objective, Stateful):
        objective.load_extra_state(own["objective"])
    if len(owners) == accelerator.num_processes:
        torch.set_rng_state(own["random"])
        accelerator.restore_random_state(own["device_random"])
    else:
        logger.warning("%d processes continue what %d began", accelerator.num_processes, len(owners))
    logger.info("resumed from the checkpoint of step %d", progress.step)
    return saves, progress


@contextlib.contextmanager
def _reporting(
    folder: Path, progress: Progress, *, config: TrainingConfig, total_steps: int, seconds: float
) -> Iterator[LogWriter]:
    """Opens the log, and writes the reports and pictures of earlier processes."""
    for step, picture in progress.pictures.items():
        _picture_path(folder, step).write_bytes(picture)
    with open_log(folder, total_steps=total_steps, batch_size=config.batch_size, line_seconds=seconds) as log:
        log.begin(progress.records, step=progress.step)
        progress.records = log.records
        yield log


def _picture_path(folder: Path, step: int) -> Path:
    return folder / f"samples_{step:07d}.webp"
