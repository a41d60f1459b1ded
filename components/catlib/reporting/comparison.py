"""Teacher and students side by side: what each costs, how good it is, and which numbers may be compared.

Numbers are compared only when they were made alike. `metrics.json` says with every number how it was made (its
protocol); where that differs from the reference, the number is withheld and a note says what differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from components.catlib.reporting.charts import STUDENT_COLOURS
from components.catlib.reporting.formatting import budget_label, with_minus
from components.catlib.reporting.lineage import Artifact, EvaluatedStudent, Lineage, setting_texts, varied_settings


@dataclass(frozen=True)
class Metric:
    """A measure of quality.

    Attributes:
        key: Its name in `metrics.json`.
        label: Its name on the page.
        better: Which direction is better.
        digits: Decimals that are shown.
        unit: Written behind the number.
        meaning: One sentence.
    """

    key: str
    label: str
    better: Literal["lower", "higher"]
    digits: int
    unit: str
    meaning: str

    def text(self, value: float) -> str:
        """Writes a value with its unit."""
        return f"{with_minus(f'{value:.{self.digits}f}')} {self.unit}".strip()


METRICS = (
    Metric(
        "miou", "mIoU", "higher", 2, "%", "Mean intersection over union of a segmenter's labels with the true ones."
    ),
    Metric("fid", "FID", "lower", 2, "", "Fréchet distance of Inception features to real images."),
    Metric(
        "frechet_random_features",
        "Fréchet distance (random features)",
        "lower",
        2,
        "",
        "Fréchet distance to real images of the features of a fixed random network. It is not FID and cannot be "
        "compared with published FIDs.",
    ),
    Metric(
        "kid", "KID", "lower", 4, "", "Kernel distance of Inception features to real images, mean over random subsets."
    ),
    Metric("l1", "L1", "lower", 3, "", "Mean absolute difference to the true target; 0 is equal, 2 black for white."),
    Metric("psnr", "PSNR", "higher", 2, "dB", "Peak signal-to-noise ratio to the true target."),
    Metric("ssim", "SSIM", "higher", 3, "", "Structural similarity to the true target; 1 is equal."),
    Metric(
        "lpips",
        "LPIPS",
        "lower",
        3,
        "",
        "How different a recognition network finds it from the true target; 0 is equal.",
    ),
)
"""The first of them that was measured is the headline."""

_PROTOCOL_OF_ALL = ("num_images", "direction", "size", "resize")
_PROTOCOL_OF_DISTANCES = ("rounding", "distance", "features", "real_images", "num_real_images")
_PROTOCOL_OF = {
    "miou": ("rounding", "segmentation"),
    "fid": _PROTOCOL_OF_DISTANCES,
    "frechet_random_features": _PROTOCOL_OF_DISTANCES,
    "kid": (*_PROTOCOL_OF_DISTANCES, "kernel_distance"),
    "l1": ("similarity",),
    "psnr": ("similarity",),
    "ssim": ("similarity",),
    "lpips": ("similarity", "lpips"),
}
"""The parts of a protocol that a metric depends on, besides those that all depend on."""


@dataclass(frozen=True)
class Score:
    """A measured value; `spread` is half of its confidence interval, if known, and `interval` the interval itself."""

    value: float
    spread: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Contender:
    """A generator in the comparison.

    Attributes:
        name: "Teacher", "Student", or "Student 2.6 G" when there are several.
        colour: Of its lines and bars: "teacher", "student-0", …
        figures: Its part of `metrics.json`.
        ratio: How many times its cost the teacher's is; empty for the teacher, or without one.
        teacher_latency: Of the teacher, timed in turn with it, as `latency_ms` in `metrics.json`; None without one.
            Times of different evaluations say little about each other.
        evaluation: Where it was measured.
        protocol: How.
        trained: The artifact of its weights; None when it was not given.
        pruned: A student's architecture; None when it was not given.
        exported: A student's ONNX file; None when it was not given.
    """

    name: str
    colour: str
    figures: dict[str, Any]
    ratio: dict[str, float]
    teacher_latency: dict[str, float] | None
    evaluation: Artifact
    protocol: dict[str, Any]
    trained: Artifact | None
    pruned: Artifact | None = None
    exported: Artifact | None = None

    @property
    def budget(self) -> str | None:
        """The budget that it was cut to, as it was given."""
        return budget_of(self.pruned)

    @property
    def macs(self) -> int:
        """Multiply-accumulates of one image, as budgets count them."""
        return self.figures["paper_macs"]

    def score(self, metric: Metric) -> Score | None:
        """Returns what was measured, whether or not it may be compared."""
        if metric.key not in self.figures:
            return None
        interval = self.figures["confidence"].get(metric.key)
        if interval is not None:
            return Score(self.figures[metric.key], (interval[1] - interval[0]) / 2, tuple(interval))
        return Score(self.figures[metric.key], self.figures.get(f"{metric.key}_std"))

    def protocol_of(self, metric: Metric) -> dict[str, Any]:
        """Returns the parts of the protocol that a metric depends on, the dataset's digest among them."""
        parts = {name: self.protocol.get(name) for name in (*_PROTOCOL_OF_ALL, *_PROTOCOL_OF[metric.key])}
        return parts | {"dataset": self.evaluation.manifest.inputs.get("dataset")}


@dataclass(frozen=True)
class Comparison:
    """All generators of a run.

    Attributes:
        teacher: None when no evaluation has one.
        students: From most to fewest MACs.
        metrics: Those that were measured.
        withheld: (name of a contender, key of a metric) -> the parts of the protocol that differ.
        baseline: Scores of what takes no network, as in `metrics.json`, measured like the teacher.
    """

    teacher: Contender | None
    students: tuple[Contender, ...]
    metrics: tuple[Metric, ...]
    withheld: dict[tuple[str, str], list[str]]
    baseline: dict[str, Any]

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """The teacher, if there is one, and the students."""
        return (self.teacher, *self.students) if self.teacher else self.students

    @property
    def smallest(self) -> Contender:
        """The student with the fewest MACs, of equal ones the first."""
        return min(self.students, key=lambda student: student.macs)

    @property
    def most_macs(self) -> int:
        """MACs of the largest generator."""
        return max(contender.macs for contender in self.contenders)

    def score(self, contender: Contender, metric: Metric) -> Score | None:
        """Returns a score that may stand beside the others; None when there is none or it must not."""
        return None if (contender.name, metric.key) in self.withheld else contender.score(metric)

    def notes(self) -> list[str]:
        """Returns a sentence for every withheld number."""
        labels = {metric.key: metric.label for metric in self.metrics}
        return [
            f"The {labels[key]} of {name} is withheld: it was measured differently ({', '.join(parts)}), and numbers "
            "of different protocols cannot be compared."
            for (name, key), parts in self.withheld.items()
        ]


def compare_generators(lineage: Lineage) -> Comparison:
    """Reads every evaluation and puts the generators side by side."""
    evaluations = {
        student.evaluation.digest: student.evaluation.read_json("metrics.json") for student in lineage.students
    }
    students = []
    for number, (student, name) in enumerate(zip(lineage.students, _names(lineage.students), strict=True)):
        evaluation = evaluations[student.evaluation.digest]
        students.append(
            Contender(
                name=name,
                colour=f"student-{number % STUDENT_COLOURS}",
                figures=evaluation["student"],
                ratio=evaluation["ratio"],
                teacher_latency=evaluation["teacher"]["latency_ms"] if evaluation["teacher"] else None,
                evaluation=student.evaluation,
                protocol=evaluation["protocol"],
                trained=student.trained,
                pruned=student.pruned,
                exported=student.exported,
            )
        )
    usual = _usual_protocols(students)
    withheld = _withheld(students, usual)
    reference = min(
        students,
        key=lambda student: (
            evaluations[student.evaluation.digest]["teacher"] is None,
            sum(name == student.name for name, _ in withheld),
        ),
    )
    reference_evaluation = evaluations[reference.evaluation.digest]
    teacher = None
    if reference_evaluation["teacher"] is not None:
        teacher = Contender(
            name="Teacher",
            colour="teacher",
            figures=reference_evaluation["teacher"],
            ratio={},
            teacher_latency=None,
            evaluation=reference.evaluation,
            protocol=reference.protocol,
            trained=lineage.teacher,
        )
    contenders = [teacher, *students] if teacher else students
    return Comparison(
        teacher=teacher,
        students=tuple(students),
        metrics=tuple(metric for metric in METRICS if any(metric.key in each.figures for each in contenders)),
        withheld=_withheld(contenders, usual),
        baseline=reference_evaluation["baseline"],
    )


def budget_of(pruned: Artifact | None) -> str | None:
    """Returns the budget that a student was cut to, as it was given."""
    return pruned.read_json("pruning.json")["budget"] if pruned else None


def _names(students: Sequence[EvaluatedStudent]) -> list[str]:
    """Returns a name per student: told apart by budget, settings of its training or, where that does not do, number."""
    if len(students) == 1:
        return ["Student"]
    budgets = [budget_of(student.pruned) for student in students]
    configs = [student.trained.manifest.config if student.trained else {} for student in students]
    varied = varied_settings(configs)
    names = [
        ", ".join(
            [
                f"Student {budget_label(budget)}" if budget else "Student",
                *setting_texts(config, varied),
            ]
        )
        for budget, config in zip(budgets, configs, strict=True)
    ]
    return [f"{name} ({i + 1})" if names.count(name) > 1 else name for i, name in enumerate(names)]


def _usual_protocols(students: Sequence[Contender]) -> dict[str, dict[str, Any]]:
    """Returns how most students were measured, per metric."""
    usual = {}
    for metric in METRICS:
        protocols = [student.protocol_of(metric) for student in students if metric.key in student.figures]
        if protocols:
            usual[metric.key] = max(protocols, key=protocols.count)
    return usual


def _withheld(contenders: Sequence[Contender], usual: dict[str, dict[str, Any]]) -> dict[tuple[str, str], list[str]]:
    withheld = {}
    for contender in contenders:
        for metric in METRICS:
            if metric.key not in contender.figures or metric.key not in usual:
                continue
            wanted, found = usual[metric.key], contender.protocol_of(metric)
            differing = [part for part in wanted if wanted[part] != found[part]]
            if differing:
                withheld[contender.name, metric.key] = differing
    return withheld
