"""The report's charts: matplotlib figures as inline SVG that take their colours and font from the page around them.

matplotlib draws in placeholder colours; the SVG names CSS variables in their place (`--teacher`, `--ink`, …), so that
a chart suits a light and a dark page. Text stays text: it can be selected and read aloud. Everything
from outside is escaped.
"""

from __future__ import annotations

import hashlib
import io
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import escape

from components.catlib.reporting.formatting import short_number

if TYPE_CHECKING:  # takes half a second to load, which pages without charts need not wait for
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator

WIDTH = 380
"""Width of a chart in CSS pixels; a phone shows it at nearly this size, so its text keeps the page's size."""

STUDENT_COLOURS = 6
"""Number of colours for students."""

MOST_POINTS = 240
"""A longer curve is drawn as means over this many pieces."""

MOST_NAMES = 5
"""Largest number of networks that a chart of cost against quality names."""

LOG_RANGE = 30
"""A curve whose largest value is this many times its smallest gets a logarithmic axis."""

_PLACEHOLDERS = {
    "ink": "#010101",
    "muted": "#020202",
    "rule": "#030303",
    "teacher": "#040404",
    **{f"student-{i}": "#" + 3 * f"{i + 5:02x}" for i in range(STUDENT_COLOURS)},
}

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "chart",
    "text.parse_math": False,
    "font.size": 12,
    "axes.edgecolor": _PLACEHOLDERS["rule"],
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.labelcolor": _PLACEHOLDERS["muted"],
    "grid.color": _PLACEHOLDERS["rule"],
    "grid.linewidth": 1,
    "xtick.color": _PLACEHOLDERS["rule"],
    "xtick.labelcolor": _PLACEHOLDERS["muted"],
    "ytick.left": False,
    "ytick.labelcolor": _PLACEHOLDERS["muted"],
    "lines.linewidth": 2,
    "lines.solid_capstyle": "round",
}


@dataclass(frozen=True)
class Curve:
    """A line of a chart.

    Attributes:
        colour: "teacher" or "student-0", "student-1", …
        x: Positions.
        y: Values, one per position, all finite.
        dots: Mark every point.
        faint: Draw it thin and pale, as one of several behind their mean.
    """

    colour: str
    x: Sequence[float]
    y: Sequence[float]
    dots: bool = False
    faint: bool = False


@dataclass(frozen=True)
class Mark:
    """A network in the chart of cost against quality.

    Attributes:
        name: Written beside it.
        colour: As in `Curve`.
        macs: Multiply-accumulates.
        value: The quality metric.
        interval: Low and high end of its confidence interval, if known.
    """

    name: str
    colour: str
    macs: float
    value: float
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Group:
    """Values that belong together in a chart, such as one score of several seeds; at least one."""

    name: str
    values: Sequence[float]


def groups_chart(groups: Sequence[Group], *, description: str) -> str:
    """Draws every value of every group as a dot, and the mean of the group as a line.

    Args:
        groups: From the top.
        description: Read aloud instead of the chart.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, (70 + 34 * len(groups)) / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
        for row, group in enumerate(groups):
            colour = _PLACEHOLDERS[f"student-{row % STUDENT_COLOURS}"]
            axes.plot(
                group.values, [row] * len(group.values), color=colour, marker="o", markersize=7, linestyle="", alpha=0.7
            )
            axes.vlines(float(np.mean(group.values)), row - 0.3, row + 0.3, color=colour, linewidth=3)
        axes.set_yticks(range(len(groups)), [group.name for group in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.margins(x=0.08)
        return _svg(figure, description)


def curves_chart(curves: Sequence[Curve], *, x_label: str, description: str) -> str:
    """Draws lines over a common axis; the value axis is logarithmic when the values span orders of magnitude.

    Args:
        curves: At least one, each with at least one point.
        x_label: What the positions are.
        description: Read aloud instead of the chart.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, 170 / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
        for curve in curves:
            x, y = shortened(curve.x), shortened(curve.y)
            marker = "o" if curve.dots or len(x) == 1 else ""
            look: dict[str, Any] = {"linewidth": 1, "alpha": 0.4, "markersize": 3} if curve.faint else {"markersize": 5}
            axes.plot(x, y, color=_PLACEHOLDERS[curve.colour], marker=marker, **look)
        values = np.concatenate([np.asarray(curve.y, dtype=float) for curve in curves])
        _value_axis(axes, values)
        axes.set_xlabel(x_label)
        axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        axes.margins(x=0.03)
        return _svg(figure, description)


def cost_chart(marks: Sequence[Mark], *, description: str) -> str:
    """Draws quality against multiply-accumulates (logarithmic), networks with their confidence intervals and names.

    More than `MOST_NAMES` names would cover each other and are left out; then only colours distinguish the networks.

    Args:
        marks: At least two networks.
        description: Read aloud instead of the chart.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import FuncFormatter, NullLocator

    with rc_context(_STYLE):
        figure = Figure(figsize=(WIDTH / 72, 260 / 72), dpi=72, layout="constrained")
        axes = figure.subplots()
        macs = [mark.macs for mark in marks]
        axes.set_xscale("log")
        axes.plot(
            *zip(*sorted((mark.macs, mark.value) for mark in marks), strict=True),
            color=_PLACEHOLDERS["rule"],
            linewidth=1.5,
            zorder=1,
        )
        centre = math.sqrt(min(macs) * max(macs))
        for number, mark in enumerate(sorted(marks, key=lambda mark: mark.macs)):
            colour = _PLACEHOLDERS[mark.colour]
            if mark.interval is not None:
                axes.vlines(mark.macs, *mark.interval, color=colour, linewidth=2, alpha=0.5)
            axes.plot([mark.macs], [mark.value], color=colour, marker="o", markersize=9)
            if len(marks) > MOST_NAMES:
                continue
            left = mark.macs > centre
            axes.annotate(
                mark.name,
                (mark.macs, mark.value),
                xytext=(-9 if left else 9, -17 if number % 2 else 9),  # neighbours on different sides
                textcoords="offset points",
                horizontalalignment="right" if left else "left",
                color=_PLACEHOLDERS["ink"],
            )
        axes.margins(x=0.12, y=0.2)
        axes.set_xlabel("multiply-accumulates per image")
        axes.xaxis.set_major_locator(_few_log_ticks(*axes.get_xlim()))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
        _linear_ticks(axes, most=5)
        return _svg(figure, description)


def shortened(values: Sequence[float]) -> np.ndarray:
    """Returns a long curve as means over equal pieces, a short one as it is."""
    array = np.asarray(values, dtype=float)
    if len(array) <= MOST_POINTS:
        return array
    return np.array([piece.mean() for piece in np.array_split(array, MOST_POINTS)])


def _value_axis(axes: Axes, values: np.ndarray) -> None:
    from matplotlib.ticker import FuncFormatter, NullLocator

    if values.min() > 0 and values.max() / values.min() > LOG_RANGE:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(_few_log_ticks(*axes.get_ylim()))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short_number(value)))
    else:
        _linear_ticks(axes, most=4)


def _linear_ticks(axes: Axes, *, most: int) -> None:
    from matplotlib.ticker import MaxNLocator, ScalarFormatter

    axes.yaxis.set_major_locator(MaxNLocator(most))
    # Enough digits that neighbouring ticks differ.
    axes.yaxis.set_major_formatter(ScalarFormatter(useOffset=False))


def _few_log_ticks(low: float, high: float) -> FixedLocator:
    """Returns two to five ticks on a logarithmic axis: powers of ten, with 2 and 5 between them where there is room."""
    from matplotlib.ticker import FixedLocator, LogLocator

    for steps in ((1,), (1, 3), (1, 2, 5)):
        ticks = [tick for tick in LogLocator(subs=steps, numticks=99).tick_values(low, high) if low <= tick <= high]
        if len(ticks) >= 3:
            break
    return FixedLocator(ticks[:: math.ceil(len(ticks) / 5)])


def _svg(figure: Figure, description: str) -> str:
    file = io.StringIO()
    figure.savefig(file, format="svg", transparent=True)
    text = file.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", text, flags=re.DOTALL)
    text = re.sub(r' id="(?:figure|axes|patch|line2d|text|xtick|ytick|legend|matplotlib|PathC|LineC)[^"]*"', "", text)
    text = re.sub(r" font-family: [^;\"]*;?| transform=\"rotate\(-0 [^\"]*\"", "", text)
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"\d+\.\d{2,}", lambda x: f"{float(x[0]):.1f}", tag[0]), text)
    prefix = f"chart-{hashlib.sha256(text.encode()).hexdigest()[:8]}-"  # ids are unique in the page, not in a chart
    text = re.sub(r'( id="|url\(#|href="#)', rf"\g<1>{prefix}", text.replace("xlink:href", "href"))
    for name, placeholder in _PLACEHOLDERS.items():
        text = text.replace(placeholder, f"var(--{name})")
    text = re.sub(r"\s*\n\s*", " ", text)
    _, height = figure.get_size_inches() * 72
    head = f'<svg viewBox="0 0 {WIDTH} {height:g}" role="img" aria-label="{escape(description)}"'
    return re.sub(r"<svg[^>]*", lambda _: head, text, count=1)
