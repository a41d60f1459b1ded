"""Street scenes by class: which classes a segmenter recognises in the generated images, and which it confuses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from components.catlib.metrics.catalogue import BY_KEY
from components.catlib.metrics.segmentation import SEGMENTATION_FILE
from components.catlib.reporting.comparison import Comparison, Contender

NOTHING = "–"

MIOU = BY_KEY["miou"]


@dataclass(frozen=True)
class ClassRow:
    """A class in the table: its name, and its IoU with every generator."""

    name: str
    cells: list[str]


@dataclass(frozen=True)
class ConfusionRow:
    """A true class, and the percentage of its pixels that is taken for each class; None if it has no pixels."""

    name: str
    shares: list[float | None]


@dataclass(frozen=True)
class Classes:
    """The section of the page.

    Attributes:
        generators: Name and colour of every generator whose mIoU may be compared.
        rows: One per class, and their mean.
        confused: Name of the generator whose confusion matrix is shown, the smallest student if it has one.
        confusion: One row per true class, its columns in the same order.
    """

    generators: list[tuple[str, str]]
    rows: list[ClassRow]
    confused: str
    confusion: list[ConfusionRow]


def classes(comparison: Comparison) -> Classes | None:
    """Compares generators class by class; None when no mIoU was measured, or none that may be compared."""
    shown = {each.name: each for each in comparison.contenders if comparison.score(each, MIOU) is not None}
    found = {name: _read(each, teacher=each is comparison.teacher) for name, each in shown.items()}
    if not found:
        return None
    names = _names(next(iter(shown.values())))
    rows = [
        ClassRow(name, [_percent(facts["iou"][number]) for facts in found.values()])
        for number, name in enumerate(names)
    ]
    means = [MIOU.text(each.figures[MIOU.key]) for each in shown.values()]
    confused = comparison.smallest.name if comparison.smallest.name in found else next(reversed(found))
    return Classes(
        generators=[(each.name, each.colour) for each in shown.values()],
        rows=[*rows, ClassRow("mean", means)],
        confused=confused,
        confusion=[
            ConfusionRow(name, _shares(row)) for name, row in zip(names, found[confused]["confusion"], strict=True)
        ],
    )


def _read(contender: Contender, *, teacher: bool) -> dict[str, Any]:
    return contender.evaluation.read_json(SEGMENTATION_FILE)["generators"]["teacher" if teacher else "student"]


def _names(contender: Contender) -> list[str]:
    return contender.evaluation.read_json(SEGMENTATION_FILE)["classes"]


def _percent(iou: float | None) -> str:
    return NOTHING if iou is None else f"{iou:.1f}"


def _shares(pixels: list[int]) -> list[float | None]:
    total = sum(pixels)
    return [100 * count / total if total else None for count in pixels]
