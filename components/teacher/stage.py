"""The teacher stage: trains one or two large generators, and their discriminators, on packed images."""

from __future__ import annotations

from pathlib import Path

from components.catlib.artifacts import Manifest
from components.catlib.config import TeacherConfig
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import open_accelerator
from components.catlib.distributed.ending import ending_together
from components.catlib.distributed.writing import writing_once
from components.catlib.fitting import check_crop_size, check_pairing
from components.catlib.metrics.statistics import open_statistics
from components.catlib.training.artifact import train_and_write
from components.catlib.training.building import build_teacher_objective
from components.catlib.training.starting import open_earlier


@ending_together()
def run(config: TeacherConfig, *, dataset: Path, real_stats: Path, output: Path, checkpoint: str | None = None) -> None:
    """Trains a teacher (method section 4); with no epochs, takes over a published one.

    Args:
        config: The recipe's `teacher` section.
        dataset: A dataset artifact.
        real_stats: A real_stats artifact, for scores during training.
        output: Where the teacher artifact goes: networks, `log.jsonl`, `tensorboard/`, `samples_<step>.webp`.
        checkpoint: Folder or `s3://bucket/prefix` where the training keeps its state, so that a killed run resumes;
            None keeps none.

    Raises:
        UserError: The dataset does not fit the configuration, or weights or a checkpoint cannot be used.
        Interrupted: The process got SIGTERM and stopped at the next step.
        RuntimeError: A loss, or a weight that would be scored or kept, is not finite.
    """
    images, statistics = PackedDataset.open(dataset), open_statistics(real_stats)
    inputs = {"dataset": images.manifest, "real_stats": statistics.manifest}
    check_pairing(config.family, images)
    check_crop_size(config, images)
    earlier = open_earlier(config)
    made_from: dict[str, Manifest | str] = {**inputs}
    if earlier is not None:
        config, made_from["start_from"] = earlier.pinned(config), earlier.digest
    accelerator = open_accelerator(config)
    objective = build_teacher_objective(
        config,
        in_channels=images.in_channels,
        out_channels=images.out_channels,
        crop_size=images.crop_size,
        accelerator=accelerator,
        earlier=earlier,
    )
    with writing_once(accelerator, output, kind="teacher", config=config, inputs=made_from) as writer:
        train_and_write(
            objective,
            config=config,
            stage="teacher",
            dataset=images,
            statistics=statistics,
            inputs=inputs,
            accelerator=accelerator,
            checkpoint=checkpoint,
            writer=writer,
        )
