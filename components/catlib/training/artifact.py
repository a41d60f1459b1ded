"""The part that the stages teacher and distill share: train an objective on a dataset, write networks and log."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from components.catlib.artifacts import ArtifactWriter, Manifest
from components.catlib.config import TrainingConfig, validate
from components.catlib.config.upgrading import upgraded
from components.catlib.data.batches import TrainingBatches
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import Accelerator
from components.catlib.metrics.statistics import OpenedStatistics
from components.catlib.networks.directions import Direction, Domain
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.networks.model_files import write_networks
from components.catlib.training.checkpoints import Checkpoints, open_checkpoints
from components.catlib.training.loop import train
from components.catlib.training.progress import Objective, Progress
from components.catlib.training.validation import Validation

UNRELATED_TO_WEIGHTS = {"log_seconds", "checkpoint_seconds", "keep_checkpoints", "patience", "time_limit_seconds"}
"""Settings that a resumed training may change: the weights after a step do not depend on them."""

DATA_SUFFIXES = {".npy", ".npz", ".pth", ".safetensors"}
"""Files of an input artifact that weights depend on; its logs and pictures may differ between equal runs."""


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
        checkpoint: Folder or `s3://bucket/prefix` for the state of training; None keeps none.
        writer: Receives the artifact's files.

    Returns:
        How far the training came; a new one if nothing was trained.

    Raises:
        UserError: The dataset is too small, or the checkpoint belongs to another training.
        Interrupted: The process got SIGTERM.
        RuntimeError: A loss is not finite, or a weight that would be scored or kept is not.
    """
    validation = None
    progress = Progress()
    if config.epochs + config.decay_epochs > 0:
        batches = TrainingBatches(dataset, batch_size=config.batch_size, flip=config.flip, seed=config.seed)
        checkpoints = None
        if checkpoint is not None and accelerator.is_main_process:
            checkpoints = Checkpoints(
                open_checkpoints(checkpoint),
                origin=_origin(stage, config, inputs),
                keep=config.keep_checkpoints,
                read_origin=partial(_origin_of_today, stage, type(config)),
            )
        if config.evaluations:
            validation = Validation(
                dataset,
                statistics,
                directions=[Direction(name) for name in objective.generators],
                config=config,
                device=accelerator.device,
            )
        progress = train(
            objective,
            config=config,
            batches=batches,
            evaluate=validation,
            folder=writer.folder,
            accelerator=accelerator,
            checkpoints=checkpoints,
        )
    write_result(
        writer,
        generators=cast("Mapping[Direction, Generator]", objective.generators),
        discriminators=cast("Mapping[Domain, Discriminator]", objective.discriminators),
        input_size=dataset.crop_size,
        config=config,
        progress=progress,
    )
    if validation is not None:
        writer.summary["sample_rows"] = validation.rows
    return progress


def write_result(
    writer: ArtifactWriter,
    *,
    generators: Mapping[Direction, Generator],
    discriminators: Mapping[Domain, Discriminator],
    input_size: tuple[int, int],
    config: TrainingConfig,
    progress: Progress,
) -> None:
    """Writes the result of a training: its networks, and its headline figures in the manifest.

    Args:
        writer: Receives the artifact's files.
        generators: Generators by direction.
        discriminators: Discriminators by the domain that they judge.
        input_size: Height, width in pixels of the images that the networks are made for.
        config: The stage's section of the recipe.
        progress: How far the training came; a new one if nothing was trained.
    """
    write_networks(writer.folder, generators=generators, discriminators=discriminators, input_size=input_size)
    writer.summary = _summary(progress, config)


def _origin(stage: str, config: TrainingConfig, inputs: Mapping[str, Manifest]) -> dict[str, Any]:
    """Returns the facts in which a checkpoint and the training that continues it must agree."""
    return {
        stage: config.model_dump(mode="json", exclude=UNRELATED_TO_WEIGHTS),
        "inputs": {name: _data_digest(manifest) for name, manifest in inputs.items()},
    }


def _origin_of_today(stage: str, model: type[TrainingConfig], origin: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the origin of a checkpoint in today's form, even if version 0.1.0 wrote it."""
    section = origin.get(stage, {})
    now = upgraded(section, model)
    if now == section:
        return dict(origin)
    settings = validate(model, now, where=stage).model_dump(mode="json", exclude=UNRELATED_TO_WEIGHTS)
    return {**origin, stage: settings}


def _data_digest(manifest: Manifest) -> str:
    data = {
        name: record.sha256 for name, record in sorted(manifest.files.items()) if Path(name).suffix in DATA_SUFFIXES
    }
    return hashlib.sha256(json.dumps(data).encode()).hexdigest()[:16]


def _summary(progress: Progress, config: TrainingConfig) -> dict[str, Any]:
    """Returns the manifest's summary: headline metrics, the weights kept for every generator, and why it ended."""
    metrics: dict[str, float] = {"steps": progress.step, "seconds": round(progress.seconds, 3)}
    if progress.step:
        metrics["images_per_second"] = round(progress.step * config.batch_size / progress.seconds, 3)
    kept = {direction: {"step": kept["step"], "scores": kept["scores"]} for direction, kept in progress.kept.items()}
    if kept:
        metrics |= next(iter(kept.values()))["scores"]
    return {"metrics": metrics, "kept": kept, "ended": progress.ended}
