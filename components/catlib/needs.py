"""What the stages of a recipe need of its images, known as soon as these are packed and before anything is trained.

Each stage checks its own needs, too. No stage that trains imports this, so a change here trains nothing anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from components.catlib.config import DistillConfig, EvaluateConfig, PruneConfig, TeacherConfig, TrainingConfig, validate
from components.catlib.data.enough import check_batch_size, check_held_out
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.fitting import check_comparable, check_crop_size, check_pairing, check_segmentable
from components.catlib.networks.directions import Direction


@dataclass(frozen=True)
class Needs:
    """The sections whose stages will read the images; None: there is no such stage.

    Attributes:
        teacher: Training of a teacher.
        distill: Trainings of students.
        prune: Which direction is compressed.
        evaluate: Measurements of the students.
    """

    teacher: TeacherConfig | None = None
    distill: tuple[DistillConfig, ...] = ()
    prune: PruneConfig = field(default_factory=PruneConfig)
    evaluate: EvaluateConfig | None = None

    @classmethod
    def of(cls, sections: Mapping[str, Any]) -> Needs:
        """Reads sections of a recipe as JSON values; those that are missing or empty belong to no stage.

        Args:
            sections: `teacher`, `distill`, `prune` and `evaluate`; `distill` may be a list of sections.
        """
        distill = sections.get("distill") or []
        several = distill if isinstance(distill, list) else [distill]
        return cls(
            validate(TeacherConfig, sections["teacher"], where="teacher") if sections.get("teacher") else None,
            tuple(validate(DistillConfig, each, where="distill") for each in several),
            validate(PruneConfig, sections.get("prune") or {}, where="prune"),
            validate(EvaluateConfig, sections["evaluate"], where="evaluate") if sections.get("evaluate") else None,
        )


def unmet(needs: Needs, dataset: PackedDataset) -> list[str]:
    """Returns what the images do not do for, a sentence each; those of one cause come once.

    Args:
        needs: The sections of the stages to come.
        dataset: The images.
    """
    found: list[str] = []
    for check in _checks(needs, dataset):
        try:
            check()
        except UserError as error:
            found.append(str(error))
    return list(dict.fromkeys(found))


def check_needs(needs: Needs, dataset: PackedDataset) -> None:
    """Refuses images that a stage to come cannot use.

    Raises:
        UserError: The message names everything that does not fit.
    """
    if found := unmet(needs, dataset):
        raise UserError("; ".join(sentence.rstrip(".") for sentence in found) + ".")


def _checks(needs: Needs, dataset: PackedDataset) -> Iterator[Callable[[], Any]]:
    direction = Direction(needs.prune.generator)
    if needs.teacher is not None:
        yield partial(check_pairing, needs.teacher.family, dataset)
        yield partial(check_crop_size, needs.teacher, dataset)
        directions = list(Direction) if needs.teacher.family == "cyclegan" else [Direction.SOURCE_TO_TARGET]
        yield from _of_training(needs.teacher, "teacher", dataset, directions)
    for config in needs.distill:
        yield partial(check_pairing, config.family, dataset)
        yield from _of_training(config, "distill", dataset, [direction])
    if needs.evaluate is not None:
        yield partial(check_held_out, dataset, [direction.input.value])
        if needs.evaluate.lpips is not None:
            yield partial(check_comparable, needs.evaluate.lpips.backbone, dataset)
        if needs.evaluate.segmenter is not None:
            yield partial(check_segmentable, dataset, direction=direction)


def _of_training(
    config: TrainingConfig, section: str, dataset: PackedDataset, directions: list[Direction]
) -> Iterator[Callable[[], Any]]:
    if not config.trains:
        return
    yield partial(check_batch_size, dataset, batch_size=config.batch_size, section=section)
    if config.evaluations:
        yield partial(check_held_out, dataset, [direction.input.value for direction in directions])
        if config.segmenter is not None:
            for direction in directions:
                yield partial(check_segmentable, dataset, direction=direction)
