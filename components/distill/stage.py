"""The distill stage: a student, cut from its teacher, learns from images and from the teacher's features."""

from __future__ import annotations

import logging
from pathlib import Path

from components.catlib.config import DistillConfig
from components.catlib.config.distillers import FIGURES
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import open_accelerator
from components.catlib.distributed.ending import ending_together
from components.catlib.distributed.writing import writing_once
from components.catlib.errors import UserError
from components.catlib.fitting import check_fits, check_pairing
from components.catlib.metrics.statistics import open_statistics
from components.catlib.networks.architecture_files import open_networks
from components.catlib.training.artifact import train_and_write
from components.catlib.training.distilling import build_distillation_objective
from components.catlib.training.progress import Progress

logger = logging.getLogger(__name__)


@ending_together()
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
        student: A prune artifact: the student's architecture, its direction and, if it inherits them, its weights.
        dataset: The dataset artifact that the teacher was trained on, or one like it.
        real_stats: A real_stats artifact, for scores during training.
        output: Where the distill artifact goes: networks, `log.jsonl`, `tensorboard/`, `samples_<step>.webp`.
        checkpoint: Folder or `s3://bucket/prefix` where the training keeps its state, so that a killed run resumes;
            None keeps none.

    Raises:
        UserError: The inputs do not fit each other or the configuration, or a checkpoint cannot be used.
        Interrupted: The process got SIGTERM and stopped at the next step.
        RuntimeError: A loss, or a weight that would be scored or kept, is not finite.
    """
    teacher_networks, student_networks = open_networks(teacher, "teacher"), open_networks(student, "prune")
    images, statistics = PackedDataset.open(dataset), open_statistics(real_stats)
    inputs = {
        "teacher": teacher_networks.manifest,
        "student": student_networks.manifest,
        "dataset": images.manifest,
        "real_stats": statistics.manifest,
    }
    if inputs["student"].inputs["teacher"] != inputs["teacher"].digest():
        logger.warning("the student in %s was cut from another teacher than %s", student, teacher)
    if config.family != inputs["teacher"].config["family"]:
        family = inputs["teacher"].config["family"]
        raise UserError(
            f"distill.family is {config.family}, but the teacher in {teacher} is of family {family}; "
            f"set teacher.family to {family}; distill.family follows it."
        )
    check_pairing(config.family, images)
    for networks in (teacher_networks, student_networks):
        check_fits(networks, images, student_networks.only_direction)
    accelerator = open_accelerator(config)
    objective = build_distillation_objective(
        config, teacher=teacher_networks, student=student_networks, accelerator=accelerator
    )
    with writing_once(accelerator, output, kind="distill", config=config, inputs=inputs) as writer:
        progress = train_and_write(
            objective,
            config=config,
            stage="distill",
            dataset=images,
            statistics=statistics,
            inputs=inputs,
            accelerator=accelerator,
            checkpoint=checkpoint,
            writer=writer,
            teachers=objective.teachers,
        )
        writer.summary |= _figures(progress)


def _figures(progress: Progress) -> dict[str, dict[str, float]]:
    """Returns the figures of the distiller by feature layer, means over the last interval of the log."""
    last = next((record["losses"] for record in reversed(progress.records) if "losses" in record), {})
    found = {figure.name: figure.by_layer(last) for figure in FIGURES}
    return {name: by_layer for name, by_layer in found.items() if by_layer}
