"""Teacher and students side by side: their costs, their scores, and which numbers may be compared.

Numbers are compared only if they were measured alike. `metrics.json` describes how its numbers were measured (the
protocol). If that differs from the other evaluations, a number is withheld and a note names the difference.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from components.catlib.metrics.catalogue import BY_KEY, METRICS, OF_ALL, Metric, measured_among
from components.catlib.reporting.charts import STUDENT_COLOURS
from components.catlib.reporting.formatting import budget_label
from components.catlib.reporting.lineage import (
    Artifact,
    Evaluated,
    Lineage,
    setting_texts,
    settings_of,
    varied_settings,
)


@dataclass(frozen=True)
class Score:
    """A measured value.

    Attributes:
        value: The value.
        spread: Half the width of its confidence interval or, without one, its standard deviation over repeats; None
            where neither is known.
        interval: Low and high end of the confidence interval, if known.
    """

    value: float
    spread: float | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Contender(Evaluated):
    """A generator in the comparison, and its artifacts.

    Attributes:
        name: "Teacher", "Student", or "Student 2.6 G" when there are several.
        colour: Colour of its lines and bars: "teacher", "student-0", …
        figures: Its part of `metrics.json`.
        ratio: The teacher's costs divided by its own; empty for the teacher, or without one.
        teacher_latency: Time of the teacher, measured in turn with it, as `latency_ms` in `metrics.json`; None without
            a teacher. Times of different evaluations cannot be compared.
        protocol: How it was measured.
    """

    name: str
    colour: str
    figures: dict[str, Any]
    ratio: dict[str, float]
    teacher_latency: dict[str, float] | None
    protocol: dict[str, Any]

    @property
    def budget(self) -> str | None:
        """The budget that it was cut to, as the recipe gives it."""
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
        """Returns the parts of the protocol that a metric depends on, and the dataset's digest."""
        parts = {part.name: self.protocol.get(part.name) for part in (*OF_ALL, *metric.protocol)}
        return parts | {"dataset": self.evaluation.manifest.inputs.get("dataset")}


@dataclass(frozen=True)
class Together:
    """Times of all students' ONNX files, measured by one process in turn, after all students were finished.

    Attributes:
        seconds: Median time of one image in ONNX Runtime, by the digest of the export artifact.
        teacher: That of the teacher's file; None if no export holds one.
        times_faster: How many times longer the teacher takes, by the digest of the export artifact: the median over
            rounds. Empty without a teacher.
        threads: CPU threads that each file used.
        cpu: Name of the CPU.
        cores: Number of the machine's cores.
        load: Processes that wanted a core in the minute before; None where the system does not report it.
    """

    seconds: Mapping[str, float]
    threads: int
    cpu: str
    cores: int
    load: float | None
    teacher: float | None = None
    times_faster: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """All generators of a run.

    Attributes:
        teacher: The teacher; None if no evaluation has one.
        students: The students, from most to fewest MACs.
        metrics: The measured metrics, the headline first.
        withheld: (name of a contender, key of a metric) -> the parts of the protocol that differ.
        baseline: Scores of the baselines, as in `metrics.json`, measured like the teacher.
        together: Times of the ONNX files where one process measured them all; None: each export measured its own.
    """

    teacher: Contender | None
    students: tuple[Contender, ...]
    metrics: tuple[Metric, ...]
    withheld: dict[tuple[str, str], list[str]]
    baseline: dict[str, Any]
    together: Together | None = None

    @property
    def contenders(self) -> tuple[Contender, ...]:
        """The teacher, if there is one, and the students."""
        return (self.teacher, *self.students) if self.teacher else self.students

    @property
    def smallest(self) -> Contender:
        """The student with the fewest MACs; the first of them if several are equal."""
        return min(self.students, key=lambda student: student.macs)

    @property
    def most_macs(self) -> int:
        """MACs of the largest generator."""
        return max(contender.macs for contender in self.contenders)

    def score(self, contender: Contender, metric: Metric) -> Score | None:
        """Returns a score that may be compared with the others; None when there is none or it is withheld."""
        return None if (contender.name, metric.key) in self.withheld else contender.score(metric)

    def onnx_seconds(self, contender: Contender) -> float:
        """Returns the time of one image in ONNX Runtime, of a student with an ONNX file."""
        assert contender.exported is not None
        if self.together is not None:
            return self.together.seconds[contender.exported.digest]
        facts = contender.exported.read_json("export.json")
        if beside := facts.get("runtimes", {}).get("teacher"):
            return beside["student_milliseconds"] / 1e3
        return facts["latency"]["onnxruntime"]["median"]

    def against_teacher(self, student: Contender) -> dict[str, Any] | None:
        """Returns the times of student and teacher as ONNX files, from the measurement of `onnx_seconds`.

        Returns:
            `runtime`, `threads`, `teacher_milliseconds`, `student_milliseconds` and `times_faster`; None if the teacher
            was not timed.
        """
        if student.exported is None:
            return None
        if self.together is None:
            return student.exported.read_json("export.json").get("runtimes", {}).get("teacher")
        if self.together.teacher is None:
            return None
        return {
            "runtime": "ONNX Runtime",
            "threads": self.together.threads,
            "teacher_milliseconds": 1e3 * self.together.teacher,
            "student_milliseconds": 1e3 * self.together.seconds[student.exported.digest],
            "times_faster": self.together.times_faster[student.exported.digest],
        }

    def notes(self) -> list[str]:
        """Returns a sentence for every withheld number."""
        return [
            f"The {BY_KEY[key].label} of {name} is withheld because it was measured differently ({', '.join(parts)}); "
            "numbers of different protocols cannot be compared."
            for (name, key), parts in self.withheld.items()
        ]


def compare_generators(lineage: Lineage, *, together: Together | None = None) -> Comparison:
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
        metrics=measured_among({key for each in contenders for key in each.figures}),
        withheld=_withheld(contenders, usual),
        baseline=reference_evaluation["baseline"],
        together=together,
    )


def budget_of(pruned: Artifact | None) -> str | None:
    """Returns the budget that a student was cut to, as the recipe gives it."""
    return pruned.read_json("pruning.json")["budget"] if pruned else None


def folder_names(pruned: Sequence[Artifact | None]) -> list[str]:
    """Returns a folder name per student: its budget if no other student has it, else its number.

    Args:
        pruned: Per student the artifact with its architecture.
    """
    budgets = [re.sub(r"[^\w.+-]", "_", budget_of(each) or "") for each in pruned]
    return [budget if budget and budgets.count(budget) == 1 else f"student-{i + 1}" for i, budget in enumerate(budgets)]


def _names(students: Sequence[Evaluated]) -> list[str]:
    """Names students by budget, by the training settings that differ, and by number where names are still equal."""
    if len(students) == 1:
        return ["Student"]
    budgets = [budget_of(student.pruned) for student in students]
    configs = [settings_of(student.trained, student.pruned) for student in students]
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
