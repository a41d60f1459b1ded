"""How teacher and students were trained: charts of scores, losses and feature layers from their logs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.catlib.config.distillers import FIGURES
from components.catlib.metrics.catalogue import BY_KEY
from components.catlib.reporting.charts import Curve, curves_chart
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.formatting import short_number, words
from components.catlib.reporting.lineage import Artifact

DOTTED_BELOW = 15
"""A curve with fewer points marks each of them."""

Series = Mapping[str, tuple[Sequence[float], Sequence[float]]]
"""Positions and values by name."""


@dataclass(frozen=True)
class Chart:
    """A chart and its title."""

    title: str
    svg: str


@dataclass(frozen=True)
class ChartGroup:
    """Charts that belong together.

    Attributes:
        title: Heading.
        caption: What the charts show.
        legend: Name and colour of every network, when there are several.
        charts: At least one.
    """

    title: str
    caption: str
    legend: list[tuple[str, str]]
    charts: list[Chart]


@dataclass(frozen=True)
class LoggedTraining:
    """A generator and the curves in the log of its training.

    Attributes:
        generator: The teacher or a student.
        scores: Scores of the compressed direction, by epoch.
        losses: Losses, by step.
        figures: Values that the distiller measures at every feature layer, by the figure's name, by step.
    """

    generator: Contender
    scores: Series
    losses: Series
    figures: Mapping[str, Series]

    @classmethod
    def read(cls, generator: Contender, artifact: Artifact) -> LoggedTraining:
        """Reads `log.jsonl`; a network that was not trained has none."""
        records = artifact.log()
        losses = _series(records, "losses", lambda record: record["step"])
        figures = {figure.name: figure.by_layer(losses) for figure in FIGURES}
        shown = {f"{figure}_{layer}" for figure, layers in figures.items() for layer in layers}
        return cls(
            generator,
            _of_direction(
                _series(records, "scores", lambda record: record["epoch"] + 1), generator.protocol["direction"]
            ),
            {name: curve for name, curve in losses.items() if name not in shown},
            figures,
        )


def scores_by_step(generator: Contender, artifact: Artifact) -> Series:
    """Returns the scores of the compressed direction in the log of a training, by step."""
    scores = _series(artifact.log(), "scores", lambda record: record["step"])
    return _of_direction(scores, generator.protocol["direction"])


def _series(records: list[dict[str, Any]], kind: str, position: Callable[[dict[str, Any]], float]) -> Series:
    series: dict[str, tuple[list[float], list[float]]] = {}
    for record in records:
        for name, value in record.get(kind, {}).items():
            x, y = series.setdefault(name, ([], []))
            x.append(position(record))
            y.append(value)
    return series


def _of_direction(scores: Series, direction: str) -> Series:
    """Returns the scores of one generator: those with its direction in front, or else those without any."""
    prefix = f"{direction}/"
    own = {name.removeprefix(prefix): curve for name, curve in scores.items() if name.startswith(prefix)}
    return own or {name: curve for name, curve in scores.items() if "/" not in name}


def chart_title(name: str) -> str:
    """Returns the title of a curve: a score's name and direction from the catalogue, or the words of a loss."""
    direction, _, key = name.rpartition("/")
    if key not in BY_KEY:
        return words(name)
    return f"{words(direction)}: {BY_KEY[key].heading}" if direction else BY_KEY[key].heading


def training_charts(comparison: Comparison) -> list[ChartGroup]:
    """Draws the logs of all generators whose artifacts were given."""
    logs = [
        LoggedTraining.read(generator, generator.trained) for generator in comparison.contenders if generator.trained
    ]
    teacher = [log for log in logs if log.generator is comparison.teacher]
    students = [log for log in logs if log.generator is not comparison.teacher]
    means = "Each point is the mean since the previous line of the log. Every part of a loss includes its weight."
    groups = [
        _group(
            "Scores on held-out images",
            "Measured during training on a number of held-out images that the recipe sets (evaluation_images); the "
            "table of results uses all of them.",
            [(log.generator, log.scores) for log in logs],
            x_label="epoch",
        ),
        _group("Losses of the teacher", means, [(log.generator, log.losses) for log in teacher], x_label="step"),
        _group("Losses of distillation", means, [(log.generator, log.losses) for log in students], x_label="step"),
        *(
            _group(
                figure.title,
                figure.caption,
                [(log.generator, log.figures[figure.name]) for log in students],
                x_label="step",
                titles={layer: layer for log in students for layer in log.figures[figure.name]},
            )
            for figure in FIGURES
        ),
    ]
    return [group for group in groups if group.charts]


def _group(
    title: str,
    caption: str,
    drawn: Sequence[tuple[Contender, Series]],
    *,
    x_label: str,
    titles: Mapping[str, str] | None = None,
) -> ChartGroup:
    """Draws a chart per name, titled by `titles` where they are given, with a line per generator."""
    charts = []
    for name in dict.fromkeys(name for _, series in drawn for name in series):
        heading = titles[name] if titles else chart_title(name)
        lines = [(generator, *series[name]) for generator, series in drawn if name in series]
        ends = "; ".join(f"{generator.name} {short_number(y[0])} to {short_number(y[-1])}" for generator, _, y in lines)
        curves = [Curve(generator.colour, x, y, dots=len(x) < DOTTED_BELOW) for generator, x, y in lines]
        svg = curves_chart(curves, x_label=x_label, description=f"{heading} by {x_label}. {ends}.")
        charts.append(Chart(heading, svg))
    legend = [(generator.name, generator.colour) for generator, series in drawn if series]
    return ChartGroup(title, caption, legend if len(legend) > 1 else [], charts)
