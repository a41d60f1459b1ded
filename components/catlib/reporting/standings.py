"""The students of a championship: what a report keeps for reports of later sweeps, and reads of earlier ones.

A grid of students that is too large for one sweep becomes several sweeps. Each report writes `standings.json` with what
a comparison needs of every student, and their pictures in `standings/`. A later report reads those files, so it needs
neither weights nor evaluations of the earlier students. It also passes them on: the last report holds all.
"""

from __future__ import annotations

import hashlib
import io
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from PIL import Image, UnidentifiedImageError
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, ValidationError, model_validator

from components.catlib.artifacts import Manifest, read_manifest
from components.catlib.errors import UserError
from components.catlib.metrics.catalogue import BY_KEY, Metric
from components.catlib.metrics.contest import IMAGE_SCORES_FILE
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.curves import scores_by_step
from components.catlib.reporting.formatting import budget_label
from components.catlib.reporting.lineage import settings_of

STANDINGS_FILE = "standings.json"
PICTURES = "standings"
"""Folder of a report with a held-out image as each student translates it: `<digest of the student>.webp`."""

MOST_STUDENTS = 240
"""More students in one comparison are refused; a sweep has 12."""
LARGEST_FILE = 64_000_000
"""A larger `standings.json` is refused, in bytes."""
LARGEST_SIDE = 256
"""Largest side of a kept picture in pixels."""

LARGEST_NUMBER = 1e15
"""Larger numbers are refused, because sums of their squares must stay finite."""

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


def _known(key: str) -> str:
    if key not in BY_KEY:
        raise ValueError(f"{key!r} is no metric of this version")
    return key


def _readable_budget(text: str) -> str:
    if text:
        budget_label(text)  # ValueError
    return text


def _kinds_are_words(value: JsonValue) -> JsonValue:
    """Checks what comparisons of settings rely on: the `kind` of a part is a word."""
    if isinstance(value, dict):
        if not isinstance(value.get("kind", ""), str):
            raise ValueError("the kind of a part of the settings is no word")
        for part in value.values():
            _kinds_are_words(part)
    return value


Number = Annotated[float, Field(ge=-LARGEST_NUMBER, le=LARGEST_NUMBER)]
Count = Annotated[int, Field(ge=0, le=int(LARGEST_NUMBER))]
Key = Annotated[str, AfterValidator(_known)]
"""The key of a metric in the catalogue."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False, frozen=True)


class ScoreCurve(_Part):
    """Scores on held-out images during a training."""

    steps: list[Count] = Field(min_length=1, description="optimisation steps")
    values: list[Number] = Field(min_length=1, description="one score per entry of steps")

    @model_validator(mode="after")
    def _one_value_per_step(self) -> ScoreCurve:
        if len(self.steps) != len(self.values):
            raise ValueError(f"{len(self.steps)} steps have {len(self.values)} values")
        return self


class Standing(_Part):
    """A student of a sweep."""

    student: Digest = Field(description="digest of the artifact with its weights")
    budget: Annotated[str, AfterValidator(_readable_budget)] = Field(
        max_length=40, description='its budget as the recipe gives it; "" if it was not pruned'
    )
    settings: Annotated[dict[str, JsonValue], AfterValidator(_kinds_are_words)] = Field(
        description="its distill section, and as prune its prune section"
    )
    seed: int = Field(ge=0, description="seed of its training")
    macs: Count = Field(gt=0, description="multiply-accumulates of one image")
    steps: Count | None = Field(description="optimisation steps; null if unknown")
    seconds: Number | None = Field(ge=0, description="seconds of its training; null if unknown")
    scores: dict[Key, Number] = Field(description="scores on all held-out images")
    image_scores: dict[Key, list[Number]] = Field(description="scores of every held-out image, where there are any")
    curves: dict[Key, ScoreCurve] = Field(description="scores during the training")
    sample: str = Field(max_length=200, description='name of the held-out image of its picture; "" without a picture')

    @model_validator(mode="after")
    def _images_make_the_scores(self) -> Standing:
        for key, values in self.image_scores.items():
            mean = statistics.fmean(values) if values else None
            score = self.scores.get(key)
            if mean is None or score is None or abs(mean - score) > 1e-6 * max(1.0, abs(score)):
                raise ValueError(f"its images have a mean {key} of {mean}, its score is {score}")
        return self


class Table(_Part):
    """Content of `standings.json`: the students, and what must be equal for a comparison."""

    version: Literal[1] = 1
    dataset: Digest = Field(description="digest of the images")
    teacher: Digest | None = Field(description="digest of the teacher; null without one")
    protocol: dict[Key, Digest] = Field(description="digest of how each metric was measured")
    students: list[Standing] = Field(min_length=1, max_length=MOST_STUDENTS)


@dataclass(frozen=True)
class Standings:
    """Students to compare.

    Attributes:
        table: Their figures.
        pictures: Student's digest -> a held-out image as it translates it, a WebP file.
    """

    table: Table
    pictures: Mapping[str, bytes]

    @property
    def students(self) -> list[Standing]:
        """The students, each once."""
        return self.table.students

    def write(self, folder: Path) -> None:
        """Writes `standings.json` and the pictures into the folder of a report."""
        text = json.dumps(self.table.model_dump(mode="json"), allow_nan=False, separators=(",", ":"))
        (folder / STANDINGS_FILE).write_text(text + "\n", encoding="utf-8")
        (folder / PICTURES).mkdir()
        for student, picture in self.pictures.items():
            (folder / PICTURES / f"{student}.webp").write_bytes(picture)


def standings(comparison: Comparison, earlier: Sequence[Path] = ()) -> Standings | None:
    """Puts a run's students and those of earlier reports together; a student of several counts once.

    Args:
        comparison: The students of this run.
        earlier: Report artifacts of earlier sweeps.

    Returns:
        This run's students first; None if their artifacts were not given.

    Raises:
        UserError: An earlier report holds no students or damaged ones, or they cannot be compared with these.
    """
    own = of_run(comparison)
    if own is None:
        if earlier:
            raise UserError(
                "Students are compared with those of earlier reports by how they were trained; give --distilled with "
                "the artifacts of this report's students, or leave --earlier out."
            )
        return None
    students = {each.student: each for each in own.students}
    pictures = dict(own.pictures)
    for folder in earlier:
        found = read(folder)
        check_alike(own.table, found.table, folder)
        for each in found.students:
            students.setdefault(each.student, each)
        pictures = {**found.pictures, **pictures}
    if len(students) > MOST_STUDENTS:
        raise UserError(
            f"The reports hold {len(students)} students; a comparison takes at most {MOST_STUDENTS}, so leave some "
            "earlier reports out."
        )
    return Standings(own.table.model_copy(update={"students": list(students.values())}), pictures)


def of_run(comparison: Comparison) -> Standings | None:
    """Collects the students of a run; None if the artifact with the weights of one was not given.

    A number that is withheld, because it was measured differently, is left out.
    """
    if any(student.trained is None for student in comparison.students):
        return None
    evaluated = comparison.students[0].evaluation.manifest.inputs
    pictures: dict[str, bytes] = {}
    students: dict[str, Standing] = {}
    for student in comparison.students:
        assert student.trained is not None
        sample, picture = _first_sample(student)
        students[student.trained.digest] = _standing(comparison, student, sample)
        if picture is not None:
            pictures[student.trained.digest] = picture
    protocol = {metric.key: _protocol_digest(comparison, metric) for metric in comparison.metrics}
    table = Table(
        dataset=evaluated["dataset"],
        teacher=evaluated.get("teacher"),
        protocol={key: digest for key, digest in protocol.items() if digest is not None},
        students=list(students.values()),
    )
    return Standings(table, pictures)


def _standing(comparison: Comparison, student: Contender, sample: str) -> Standing:
    trained = student.trained
    assert trained is not None
    known = {metric.key: score for metric in comparison.metrics if (score := comparison.score(student, metric))}
    by_image: dict[str, list[float]] = {}
    if IMAGE_SCORES_FILE in student.evaluation.manifest.files:
        by_image = student.evaluation.read_json(IMAGE_SCORES_FILE)["student"]
    costs = trained.manifest.summary.get("metrics", {})
    return Standing(
        student=trained.digest,
        budget=student.budget or "",
        settings=settings_of(trained, student.pruned),
        seed=trained.manifest.config.get("seed", 0),
        macs=student.macs,
        steps=costs.get("steps"),
        seconds=costs.get("seconds"),
        scores={key: score.value for key, score in known.items()},
        image_scores={key: values for key, values in by_image.items() if key in known},
        curves={
            key: ScoreCurve(steps=[int(step) for step in steps], values=list(values))
            for key, (steps, values) in scores_by_step(student, trained).items()
            if key in BY_KEY
        },
        sample=sample,
    )


def _first_sample(student: Contender) -> tuple[str, bytes | None]:
    """Returns the name of the first held-out picture, and the student's translation of it as a small WebP file."""
    samples = student.evaluation.read_json("metrics.json")["samples"]
    if not samples:
        return "", None
    image = Image.open(student.evaluation.folder / samples[0]["student"]).convert("RGB")
    image.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    file = io.BytesIO()
    image.save(file, "WEBP", quality=88)
    return samples[0]["name"][:200], file.getvalue()


def _protocol_digest(comparison: Comparison, metric: Metric) -> str | None:
    for student in comparison.students:
        if comparison.score(student, metric) is not None:
            text = json.dumps(student.protocol_of(metric), sort_keys=True)
            return hashlib.sha256(text.encode()).hexdigest()
    return None


def read(folder: Path) -> Standings:
    """Reads the students of an earlier report.

    Raises:
        UserError: The folder is no report, it holds no students, or they or their pictures are damaged.
    """
    manifest = read_manifest(folder, "report")
    if STANDINGS_FILE not in manifest.files:
        raise UserError(
            f"The earlier report {folder} has no {STANDINGS_FILE}, so its students cannot be compared with these; give "
            "a report of trained students that this version wrote, or leave it out."
        )
    table = _read_table(folder, manifest)
    pictures = {}
    for each in table.students:
        name = f"{PICTURES}/{each.student}.webp"
        if each.sample and name in manifest.files:
            pictures[each.student] = _read_picture(folder / name)
    return Standings(table, pictures)


def _read_table(folder: Path, manifest: Manifest) -> Table:
    size = manifest.files[STANDINGS_FILE].bytes
    try:
        if size > LARGEST_FILE:
            raise ValueError(f"it has {size} bytes, more than {LARGEST_FILE}")
        return Table.model_validate_json((folder / STANDINGS_FILE).read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the whole"
        complaint = f"{place}: {first['msg']}"
    except ValueError as error:
        complaint = str(error)
    raise UserError(
        f"{folder / STANDINGS_FILE} is damaged or from another version ({complaint}); write that report again, or "
        "leave it out."
    )


def _read_picture(path: Path) -> bytes:
    """Reads a kept picture; one that is none, or larger than those that reports keep, is refused before decoding."""
    content = path.read_bytes()
    try:
        with Image.open(io.BytesIO(content), formats=["WEBP"]) as image:
            fits = max(image.size) <= LARGEST_SIDE
            if fits:
                image.load()
    except (UnidentifiedImageError, OSError, Image.DecompressionBombError):
        fits = False
    if not fits:
        raise UserError(
            f"{path} is no WebP picture of at most {LARGEST_SIDE}×{LARGEST_SIDE} pixels; write that report again, or "
            "leave it out."
        )
    return content


def check_alike(own: Table, earlier: Table, folder: Path) -> None:
    """Refuses students that were not taught, or not measured, like those of this run (UserError)."""
    other = [name for name in ("dataset", "teacher") if getattr(own, name) != getattr(earlier, name)]
    protocols = {key for key in own.protocol.keys() | earlier.protocol.keys() if _differ(own, earlier, key)}
    if not other and protocols:
        other = [f"protocol of {', '.join(BY_KEY[key].label for key in sorted(protocols))}"]
    if other:
        raise UserError(
            f"The earlier report {folder} has another {' and another '.join(other)} than this one; give reports whose "
            "students have the same images, teacher and evaluation, or leave it out."
        )


def _differ(own: Table, earlier: Table, key: str) -> bool:
    counts = {len(student.image_scores.get(key, [])) for student in (*own.students, *earlier.students)} - {0}
    return own.protocol.get(key) != earlier.protocol.get(key) or len(counts) > 1
