"""The distill stage: a student, cut from its teacher, learns from images and from the teacher's features."""

from __future__ import annotations

import logging
from pathlib import Path

from components.catlib.artifacts import read_manifest
from components.catlib.config import DistillConfig
from components.catlib.config.distillers import FIGURES
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import open_accelerator
from components.catlib.errors import UserError
from components.catlib.networks.model_files import read_architectures
from components.catlib.training.artifact import check_pairing, train_and_write, writing_once
from components.catlib.training.building import build_distillation_objective
from components.catlib.training.loop import Progress

logger = logging.getLogger(__name__)


def run(
    config: DistillConfig,
    *,
    teacher: Path,
    student: Path,
    dataset: Path,
    real_stats: Path,
    output: Path,
    checkpoint: str | None = None,
) -> None:
    """Distils a teacher into a student (method section 6).

    Args:
        config: The recipe's `distill` section.
        teacher: A teacher artifact.
        student: A prune artifact: the student's architecture, its direction and, when they are inherited, its weights.
        dataset: The dataset artifact that the teacher was trained on, or one like it.
        real_stats: A real_stats artifact, for scores during training.
        output: Where the distill artifact goes: networks, `log.jsonl`, `tensorboard/`, `samples_<step>.webp`.
        checkpoint: Folder or `s3://bucket/prefix` where the state of training is kept, so that a killed run resumes;
            None: nowhere.

    Raises:
        UserError: The inputs do not fit each other or the configuration, or a checkpoint cannot be used.
        Interrupted: The process got SIGTERM and stopped at the next step.
        RuntimeError: A loss is not finite, or a weight of what would be scored or kept.
    """
    inputs = {
        "teacher": read_manifest(teacher, "teacher"),
        "student": read_manifest(student, "prune"),
        "dataset": read_manifest(dataset, "dataset"),
        "real_stats": read_manifest(real_stats, "real_stats"),
    }
    if inputs["student"].inputs["teacher"] != inputs["teacher"].digest():
        logger.warning("the student in %s was cut from another teacher than %s", student, teacher)
    images = PackedDataset.open(dataset)
    family = inputs["teacher"].config["family"]
    if config.family != family:
        raise UserError(
            f"distill.family is {config.family}, but the teacher in {teacher} is of family {family}; "
            f"set teacher.family to {family}, which distill.family follows."
        )
    check_pairing(family, images)
    _check_images(images, teacher)
    _check_images(images, student)
    accelerator = open_accelerator(config)
    objective = build_distillation_objective(
        config, teacher_folder=teacher, student_folder=student, accelerator=accelerator
    )
    with writing_once(accelerator, output, kind="distill", config=config, inputs=inputs) as writer:
        progress = train_and_write(
            objective,
            config=config,
            stage="distill",
            dataset=images,
            real_stats=real_stats,
            inputs=inputs,
            accelerator=accelerator,
            checkpoint=checkpoint,
            writer=writer,
        )
        writer.summary |= _figures(progress)


def _check_images(dataset: PackedDataset, networks: Path) -> None:
    """Refuses images that the networks of a folder were not made for.

    Raises:
        UserError: The crop size, or the number of channels, is another.
    """
    architectures = read_architectures(networks)
    if architectures.input_size != dataset.crop_size:
        made_for, found = ("x".join(map(str, size)) for size in (architectures.input_size, dataset.crop_size))
        raise UserError(
            f"The networks in {networks} were made for images of {made_for} pixels, but dataset {dataset.folder} has "
            f"crops of {found}; pack it with dataset.crop_size {made_for}, or train the teacher on this dataset."
        )
    for direction, architecture in architectures.generators.items():
        expected = {"source": dataset.in_channels, "target": dataset.out_channels}[direction.partition("_to_")[0]]
        if architecture.in_channels != expected:
            raise UserError(
                f"The generator {direction} in {networks} takes {architecture.in_channels} channels, but dataset "
                f"{dataset.folder} has {expected}; use the dataset that the teacher was trained on."
            )


def _figures(progress: Progress) -> dict[str, dict[str, float]]:
    """Returns the figures of the distiller by feature layer, means over the last interval of the log."""
    last = next((record["losses"] for record in reversed(progress.records) if "losses" in record), {})
    found = {figure.name: figure.by_layer(last) for figure in FIGURES}
    return {name: by_layer for name, by_layer in found.items() if by_layer}
