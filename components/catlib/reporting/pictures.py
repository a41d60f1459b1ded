"""The pictures of the page: samples of every generator's images, and how they changed during training."""

from __future__ import annotations

import base64
import io
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from components.catlib.networks.directions import Direction
from components.catlib.reporting.comparison import Comparison
from components.catlib.reporting.lineage import Artifact, Lineage

logger = logging.getLogger(__name__)

MOST_SAMPLES = 12
MOST_TIMELINE_STEPS = 6
ENCODINGS = ((256, 88), (256, 78), (192, 76), (128, 74), (96, 70), (64, 60), (48, 40))
"""Largest height in pixels and WebP quality of the pictures; the first pair with which all pictures fit is used."""


class Pictures:
    """Collects the pictures of a page, then encodes all of them so that together they fit."""

    def __init__(self) -> None:
        self._images: list[Image.Image] = []

    def add(self, image: Image.Image) -> int:
        """Takes a picture; returns its number."""
        self._images.append(image.convert("RGB"))
        return len(self._images) - 1

    def encode(self, limit: int, used: Sequence[int] | None = None) -> list[str]:
        """Returns a `data:` address per picture; pictures are made smaller and coarser until all of them fit.

        Args:
            limit: Characters that all addresses in the page may have.
            used: Numbers of the pictures that are shown; a picture shown twice counts twice. None: all, once.
        """
        shown = range(len(self._images)) if used is None else used
        uris: list[str] = []
        for height, quality in ENCODINGS:
            uris = [_data_uri(image, height, quality) for image in self._images]
            if sum(len(uris[picture]) for picture in shown) <= limit:
                return uris
        logger.warning("the report is larger than intended: %d pictures cannot be made smaller", len(uris))
        return uris


def _data_uri(image: Image.Image, height: int, quality: int) -> str:
    if image.height > height:
        image = image.resize((max(1, round(image.width * height / image.height)), height), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=quality)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode()


@dataclass(frozen=True)
class Shown:
    """A picture with its caption.

    Attributes:
        caption: What the picture shows.
        picture: Its number among the pictures of the page.
        colour: Colour of the generator that made it; "" for data.
    """

    caption: str
    picture: int
    colour: str = ""


@dataclass(frozen=True)
class ShownSample:
    """A held-out image: the input, the true target if there is one, and every generator's translation."""

    name: str
    pictures: list[Shown]


def samples(comparison: Comparison, pictures: Pictures) -> list[ShownSample]:
    """Returns the samples on which every student was evaluated."""
    by_student = [
        {sample["name"]: sample for sample in student.evaluation.read_json("metrics.json")["samples"]}
        for student in comparison.students
    ]
    first, *others = by_student
    common = [name for name in first if all(name in samples for samples in others)]
    folder = comparison.students[0].evaluation.folder
    found = []
    for name in common[:MOST_SAMPLES]:
        shown = [
            Shown(column, pictures.add(Image.open(folder / first[name][column])), colour)
            for column, colour in (("input", ""), ("target", ""), ("teacher", "teacher"))
            if column in first[name]
        ]
        for student, files in zip(comparison.students, by_student, strict=True):
            image = Image.open(student.evaluation.folder / files[name]["student"])
            shown.append(Shown(student.name.lower(), pictures.add(image), student.colour))
        found.append(ShownSample(name, shown))
    return found


def triptych(shown: Sequence[ShownSample], comparison: Comparison) -> list[Shown]:
    """Returns the first sample: its input, and the translations by the smallest student and the teacher, if any."""
    wanted = ("input", "teacher", comparison.smallest.name.lower())
    return [picture for sample in shown[:1] for picture in sample.pictures if picture.caption in wanted]


@dataclass(frozen=True)
class Timeline:
    """How a network's translations of the same images changed during its training, a strip per row."""

    name: str
    rows: list[Shown]


def timelines(lineage: Lineage, comparison: Comparison, pictures: Pictures) -> list[Timeline]:
    """Returns the timelines of the teacher and of the students that kept strips."""
    direction = comparison.smallest.protocol["direction"]
    trained = [("Teacher", "teacher", lineage.teacher)]
    trained += [(student.name, student.colour, student.trained) for student in comparison.students]
    return [
        Timeline(name, rows)
        for name, colour, artifact in trained
        if artifact is not None and (rows := _timeline(artifact, direction, colour, pictures))
    ]


def _timeline(artifact: Artifact, direction: str, colour: str, pictures: Pictures) -> list[Shown]:
    """Cuts the strips of a training into input, target and the generator's row at each evaluation."""
    names = artifact.manifest.summary.get("sample_rows", [])
    strips = {
        int(match[1]): artifact.folder / file
        for file in artifact.manifest.files
        if (match := re.fullmatch(r"samples_(\d+)\.webp", file))
    }
    if not strips or direction not in names:
        return []

    def cut(step: int, row: str) -> int:
        image = Image.open(strips[step])
        height = image.height // len(names)
        top = names.index(row) * height
        return pictures.add(image.crop((0, top, image.width, top + height)))

    steps = _spread(sorted(strips))
    way = Direction(direction)
    data = [
        Shown(caption, cut(steps[0], row))
        for caption, row in (("input", way.input), ("target", way.output))
        if row in names
    ]
    return data + [Shown(f"step {step}", cut(step, direction), colour) for step in steps]


def _spread(steps: list[int]) -> list[int]:
    """Picks a few steps evenly, the first and the last among them."""
    if len(steps) <= MOST_TIMELINE_STEPS:
        return steps
    return [steps[round(i * (len(steps) - 1) / (MOST_TIMELINE_STEPS - 1))] for i in range(MOST_TIMELINE_STEPS)]
