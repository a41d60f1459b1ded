"""Variations of the distillation: the scores of each, as mean and spread over its seeds."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from components.catlib.metrics.catalogue import Metric
from components.catlib.reporting.charts import Group, groups_chart
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.formatting import budget_label
from components.catlib.reporting.lineage import setting_texts, varied_settings


@dataclass(frozen=True)
class Variation:
    """One way of distilling.

    Attributes:
        name: The settings that set it apart, such as "mse".
        students: The students made this way, one per seed.
    """

    name: str
    students: tuple[Contender, ...]


@dataclass(frozen=True)
class VariationRow:
    """A variation in the table: its name, its number of students, and a text per metric."""

    name: str
    count: int
    cells: list[str]


@dataclass(frozen=True)
class Variations:
    """The section of the page.

    Attributes:
        metrics: Columns of the table.
        rows: One per variation.
        charts: Metric and SVG.
    """

    metrics: tuple[Metric, ...]
    rows: list[VariationRow]
    charts: list[tuple[Metric, str]]


def variations(comparison: Comparison) -> Variations | None:
    """Compares variations of the distillation; None when there is only one.

    A number that is withheld for one student is left out for its whole variation.
    """
    groups = _group(comparison.students)
    if len(groups) < 2:
        return None
    rows = [
        VariationRow(
            group.name,
            len(group.students),
            [_mean_and_spread(metric, _values(comparison, group, metric)) for metric in comparison.metrics],
        )
        for group in groups
    ]
    charts = []
    for metric in comparison.metrics:
        drawn = [Group(group.name, _values(comparison, group, metric)) for group in groups]
        if all(group.values for group in drawn):
            read = "; ".join(f"{row.name} {row.cells[comparison.metrics.index(metric)]}" for row in rows)
            charts.append((metric, groups_chart(drawn, description=f"{metric.label} by variation: {read}")))
    return Variations(comparison.metrics, rows, charts)


def _group(students: Sequence[Contender]) -> list[Variation]:
    trained = [student.trained for student in students]
    configs = [artifact.manifest.config if artifact else {} for artifact in trained]
    varied = [key for key in varied_settings(configs) if key != "seed"]
    if not varied:
        return []
    budgets = {student.budget for student in students}
    grouped: dict[str, list[Contender]] = {}
    for student, config in zip(students, configs, strict=True):
        parts = setting_texts(config, varied)
        if len(budgets) > 1 and student.budget:
            parts.insert(0, budget_label(student.budget))
        grouped.setdefault(", ".join(parts), []).append(student)
    return [Variation(name, tuple(members)) for name, members in grouped.items()]


def _values(comparison: Comparison, variation: Variation, metric: Metric) -> list[float]:
    scores = [comparison.score(student, metric) for student in variation.students]
    return [score.value for score in scores if score is not None] if None not in scores else []


def _mean_and_spread(metric: Metric, values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = metric.text(statistics.fmean(values))
    if len(values) < 2:
        return mean
    return f"{mean} ± {metric.number(statistics.stdev(values))}"
