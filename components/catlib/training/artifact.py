"""The part that the stages teacher and distill share: train an objective on a dataset, write networks and log."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, NoReturn

from torch import nn

from components.catlib.artifacts import ArtifactWriter, Manifest
from components.catlib.config import TrainingConfig
from components.catlib.data.batches import TrainingBatches
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import Accelerator
from components.catlib.distributed.processes import from_main
from components.catlib.footprint.of_training import savings, state_training
from components.catlib.memory import telling_out_of_memory
from components.catlib.metrics.statistics import OpenedStatistics
from components.catlib.networks.directions import Direction
from components.catlib.networks.model_files import write_networks
from components.catlib.training.checkpoints import Checkpoints, open_checkpoints
from components.catlib.training.going_on import Beginning, Place, how_to_train_on, place_of
from components.catlib.training.loop import train
from components.catlib.training.origin import Length, Origin
from components.catlib.training.progress import Objective, Progress
from components.catlib.training.signs import SignsTaken
from components.catlib.training.upkeep import Upkeep
from components.catlib.training.validation import Validation
from components.catlib.training.watching import Watch, give_up

logger = logging.getLogger(__name__)


def train_and_write(
    objective: Objective,
    *,
    config: TrainingConfig,
    stage: str,
    dataset: PackedDataset,
    statistics: OpenedStatistics,
    inputs: Mapping[str, Manifest],
    accelerator: Accelerator,
    checkpoint: str | None,
    writer: ArtifactWriter,
    teachers: Mapping[str, nn.Module] | None = None,
) -> Progress:
    """Trains an objective and fills an artifact: networks, log, sample pictures, headline metrics.

    Without epochs the networks are written as they are.

    Args:
        objective: The objective to train.
        config: The stage's section of the recipe.
        stage: Name of the stage.
        dataset: Training and held-out images.
        statistics: Statistics of real images, for scores during training.
        inputs: Manifests of all input artifacts; a checkpoint made from others is refused.
        accelerator: Device, precision and processes.
        checkpoint: Folder or `s3://bucket/prefix` for the state of training; None: the place that follows from what
            determines the weights, below the one that the environment names, if it names one.
        writer: Receives the artifact's files.
        teachers: By direction, the generators that are learned from.

    Returns:
        How far the training came; a new one if nothing was trained.

    Raises:
        UserError: The dataset is too small, the checkpoint belongs to another training, an earlier training to go on
            from is not there, or a variable of the environment is wrong.
        Interrupted: The process got SIGTERM.
        RuntimeError: A loss is not finite, or a weight that would be scored or kept is not.
    """
    validation = None
    progress = Progress()
    if config.trains:
        upkeep = Upkeep.from_environment()
        batches = TrainingBatches(
            dataset,
            batch_size=config.batch_size,
            flip=config.flip,
            seed=config.seed,
            section=stage,
            pinned=accelerator.device.type == "cuda",
        )
        # What the main process finds out holds for all; it alone reads and writes checkpoints.
        origin = from_main(accelerator, lambda: Origin(stage, config, inputs))
        place = place_of(origin, chosen=checkpoint, root=from_main(accelerator, lambda: upkeep.checkpoints))
        beginning = None
        if place is not None and accelerator.is_main_process:
            beginning = _beginning(origin, place, keep=upkeep.keep_checkpoints)
        # What scores images lies in the main process alone: a feature network on every GPU would be memory for nothing.
        if config.evaluations and accelerator.is_main_process:
            validation = Validation(
                dataset,
                statistics,
                directions=[Direction(name) for name in objective.generators],
                config=config,
                device=accelerator.device,
            )
        signs = SignsTaken(
            objective,
            batches,
            total_steps=config.total_steps(batches.steps_per_epoch),
            device=accelerator.device,
            teachers=teachers,
        )
        watch = Watch(signs, config=config, stage=stage)
        state_training(stage, config, objective.networks, dataset.crop_size, accelerator, teachers)
        with telling_out_of_memory(stage, savings(stage, config, objective.networks)):
            progress = train(
                objective,
                config=config,
                batches=batches,
                evaluate=validation or (_in_main if config.evaluations else None),
                folder=writer.folder,
                accelerator=accelerator,
                upkeep=upkeep,
                checkpoints=beginning and beginning.checkpoints,
                begin=beginning and beginning.state,
                watch=watch if accelerator.is_main_process else None,
            )
        watch.judge(progress.records)
        from_main(accelerator, lambda: give_up(watch))
        if place is not None and accelerator.is_main_process:
            logger.info(
                "training ended (%s); to train on: %s", progress.ended, how_to_train_on(origin, config, progress)
            )
    write_result(writer, objective.generators, objective.discriminators, dataset, config=config, progress=progress)
    if validation is not None:
        writer.summary["sample_rows"] = validation.rows
    return progress


def write_result(
    writer: ArtifactWriter,
    generators: Mapping[str, nn.Module],
    discriminators: Mapping[str, nn.Module],
    dataset: PackedDataset,
    *,
    config: TrainingConfig,
    progress: Progress,
) -> None:
    """Writes the result of a training: its networks, and its headline figures in the manifest.

    Args:
        writer: Receives the artifact's files.
        generators: Generators by direction.
        discriminators: Discriminators by the domain that they judge.
        dataset: The images that the networks are made for.
        config: The stage's section of the recipe.
        progress: How far the training came; a new one if nothing was trained.
    """
    write_networks(
        writer.folder,
        generators=generators,
        discriminators=discriminators,
        input_size=dataset.crop_size,
        values=dataset.values,
    )
    writer.summary = _summary(progress, config)


def _in_main(_: Mapping[str, nn.Module]) -> NoReturn:
    raise AssertionError("only the main process scores images")


def _beginning(origin: Origin, place: Place, *, keep: int) -> Beginning:
    """Opens the checkpoints of a training, and those that it may go on from."""

    def open_(address: str, length: Length) -> Checkpoints:
        return Checkpoints(open_checkpoints(address), origin=origin.as_json(length), keep=keep, read_origin=origin.read)

    return Beginning(origin, place, open_)


def _summary(progress: Progress, config: TrainingConfig) -> dict[str, Any]:
    """Returns the manifest's summary: headline metrics, the weights kept for every generator, its end, its history."""
    metrics: dict[str, float] = {"steps": progress.step, "seconds": round(progress.seconds, 3)}
    if progress.step:
        metrics["images_per_second"] = round(progress.step * config.batch_size / progress.seconds, 3)
    kept = {direction: {"step": kept["step"], "scores": kept["scores"]} for direction, kept in progress.kept.items()}
    if kept:
        metrics |= next(iter(kept.values()))["scores"]
    return {"metrics": metrics, "kept": kept, "ended": progress.ended, "history": progress.history}
