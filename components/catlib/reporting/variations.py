"""Variations of the distillation: their costs and scores side by side, and which is better beyond chance.

A variation is what sets students apart besides their seed: settings of the distillation or of pruning, or the budget.
The first one of the page is the reference that the others are compared with: one without a distiller or, without such,
the one that has most settings in common with the others. All pairs are in folded tables.
"""

from __future__ import annotations

import io
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from components.catlib.metrics.catalogue import METRICS, Metric
from components.catlib.metrics.contest import FEWEST_SEEDS, Contest, Difference, against, contest
from components.catlib.reporting.charts import STUDENT_COLOURS, Curve, Group, curves_chart, groups_chart
from components.catlib.reporting.comparison import Comparison, Contender
from components.catlib.reporting.formatting import budget_label, quantity, short_number, with_minus
from components.catlib.reporting.lineage import setting_texts, varied_settings
from components.catlib.reporting.pictures import Pictures, Shown
from components.catlib.reporting.standings import Standing, Standings

EQUAL_COST = 1.05
"""Costs of variations that differ by a larger factor are stated above the table."""

LENGTH = "steps"
"""Setting that follows from the cost of a step in a sweep of equal seconds; it names a variation only where it must."""


@dataclass(frozen=True)
class Variation:
    """One way of making a student.

    Attributes:
        name: The settings that set it apart, such as "mse".
        colour: Of its lines and dots.
        students: The students made this way, one per seed, by seed.
        repeated: Further students of the same seeds, such as those of earlier code. They do not count, because
            they would make chance look smaller than it is.
    """

    name: str
    colour: str
    students: tuple[Standing, ...]
    repeated: tuple[Standing, ...] = ()


@dataclass(frozen=True)
class Cell:
    """A score of a variation: mean and spread; the difference to the reference and its interval below it."""

    text: str
    remarks: tuple[str, ...] = ()


@dataclass(frozen=True)
class VariationRow:
    """A variation in the table."""

    name: str
    colour: str
    count: int
    costs: list[str]
    cells: list[Cell]


@dataclass(frozen=True)
class Verdict:
    """What a metric says of all variations.

    Attributes:
        metric: The metric.
        sentence: The winner, or why there is none.
        than_reference: What is better or worse than the reference beyond chance; "" with too few seeds.
        pairs: Name, difference with interval, p value and effect size of every pair.
    """

    metric: Metric
    sentence: str
    than_reference: str
    pairs: list[tuple[str, str, str, str]]


@dataclass(frozen=True)
class Variations:
    """The section of the page.

    Attributes:
        metrics: Columns of the table.
        rows: One per variation.
        reference: Name of the variation that differences are shown to.
        remarks: Sentences about earlier and repeated students, unequal costs, and the seeds that differences rest on.
        verdicts: One per metric that all variations have.
        charts: Metric and SVG.
        curves: Metric and SVG: scores during the trainings.
        pictures: A held-out image: input, target, teacher, and a student of every variation.
    """

    metrics: tuple[Metric, ...]
    rows: list[VariationRow]
    reference: str
    remarks: list[str]
    verdicts: list[Verdict]
    charts: list[tuple[Metric, str]]
    curves: list[tuple[Metric, str]]
    pictures: list[Shown]


def variations(standings: Standings | None, comparison: Comparison, pictures: Pictures) -> Variations | None:
    """Compares variations; None when there is only one, or when it is unknown how students were made.

    Args:
        standings: The students of this run and of earlier ones.
        comparison: This run, for the data in the row of pictures.
        pictures: Takes the pictures.
    """
    groups = grouped(standings.students) if standings else []
    if standings is None or len(groups) < 2:
        return None
    metrics = tuple(metric for metric in METRICS if any(metric.key in each.scores for each in standings.students))
    compared = {metric: scores for metric in metrics if (scores := _comparable(groups, metric))}
    differences = {metric: against(groups[0].name, scores) for metric, scores in compared.items()}
    return Variations(
        metrics=metrics,
        rows=[_row(group, metrics, differences) for group in groups],
        reference=groups[0].name,
        remarks=[*_elsewhere(standings, comparison), *_repeated(groups), *_unequal_costs(groups), *_seeds(groups)],
        verdicts=[
            _verdict(metric, contest(scores, better=_better(metric)), groups[0].name, differences[metric])
            for metric, scores in compared.items()
        ],
        charts=_charts(groups, metrics),
        curves=_curves(groups),
        pictures=_pictures(groups, standings, comparison, pictures),
    )


def grouped(students: Sequence[Standing]) -> list[Variation]:
    """Puts students together that differ in their seed alone.

    The reference comes first, then variations without a distiller, then the others by name.

    Returns:
        The variations; none if students differ only in seed and budget.
    """
    varied = [key for key in varied_settings([student.settings for student in students]) if key != "seed"]
    if not varied:
        return []
    budgets = len({student.budget for student in students}) > 1
    found: dict[tuple[str, ...], list[Standing]] = {}
    for student in students:
        found.setdefault(tuple(_texts(student, varied, budgets=budgets)), []).append(student)
    firsts = [members[0] for members in found.values()]
    reference = firsts.index(_reference(firsts, varied))
    names = _names(firsts, varied, reference, budgets=budgets)
    ordered = sorted(
        zip(names, found.values(), strict=True),
        key=lambda each: (each[0] != names[reference], _has_distiller(each[1][0]), _by_number(each[0])),
    )
    return [_variation(name, f"student-{i % STUDENT_COLOURS}", members) for i, (name, members) in enumerate(ordered)]


def _by_number(name: str) -> list[tuple[float, str]]:
    """Returns a key that sorts names by their words and the size of their numbers."""
    return [(float(part), "") if i % 2 else (0.0, part) for i, part in enumerate(re.split(r"(\d+\.?\d*)", name))]


def _reference(students: Sequence[Standing], varied: Sequence[str]) -> Standing:
    """Returns the one of several variations' students that the others are shown against.

    It has no distiller if there is such a student; then the fewest settings that differ from the others'. Where each
    variation is one change of the same settings, those are the settings without a change. Of equal ones, the shortest
    training is taken.
    """
    texts = [[setting_texts(student.settings, [key]) for key in varied] for student in students]

    def rank(number: int) -> tuple[bool, int, int]:
        changes = sum(own != other for each in texts for own, other in zip(texts[number], each, strict=True))
        return _has_distiller(students[number]), changes, students[number].steps or 0

    return students[min(range(len(students)), key=rank)]


def _has_distiller(student: Standing) -> bool:
    distiller = student.settings.get("distiller")
    return not (isinstance(distiller, dict) and distiller.get("kind") == "none")


def _variation(name: str, colour: str, members: Sequence[Standing]) -> Variation:
    by_seed: dict[int, Standing] = {}
    for student in members:
        by_seed.setdefault(student.seed, student)
    kept = tuple(by_seed[seed] for seed in sorted(by_seed))
    return Variation(name, colour, kept, tuple(student for student in members if student not in kept))


def _texts(student: Standing, keys: Sequence[str], *, budgets: bool) -> list[str]:
    """Writes what sets a student apart: its budget where there are several, and the settings at some paths."""
    budget = [budget_label(student.budget)] if budgets and student.budget else []
    return budget + setting_texts(student.settings, keys)


def _names(students: Sequence[Standing], varied: Sequence[str], reference: int, *, budgets: bool) -> list[str]:
    """Names a student of each variation by the settings that tell them apart.

    A setting that follows from those before it is left out: first comes the distiller, last the length of the training.
    The reference has all of them; another one those that differ from it, if no two are then called alike.
    """

    def names(keys: Sequence[str]) -> list[str]:
        texts = [_texts(student, [key for key in varied if key in keys], budgets=budgets) for student in students]
        return [", ".join(each) or "none" for each in texts]

    kept: list[str] = []
    for key in sorted(varied, key=lambda key: (key == LENGTH, not key.startswith("distiller"))):
        if len(set(names([*kept, key]))) > len(set(names(kept))):
            kept.append(key)
    whole = names(kept)
    changed = [_changes(student, students[reference], kept, budgets=budgets) for student in students]
    short = [whole[i] if i == reference else ", ".join(texts) or whole[i] for i, texts in enumerate(changed)]
    return short if len(set(short)) == len(whole) else whole


def _changes(student: Standing, reference: Standing, keys: Sequence[str], *, budgets: bool) -> list[str]:
    """Writes the settings of a student that are not the reference's; its length only if there are no others."""
    others = set(_texts(reference, keys, budgets=budgets))
    without_length = [key for key in keys if key != LENGTH]
    found = [text for text in _texts(student, without_length, budgets=budgets) if text not in others]
    return found or [text for text in _texts(student, keys, budgets=budgets) if text not in others]


def representatives(standings: Standings | None, comparison: Comparison) -> tuple[Contender, ...]:
    """Returns this run's first student of every variation; all students if there is only one variation."""
    groups = grouped(standings.students) if standings else []
    if len(groups) < 2:
        return comparison.students
    of_student = {student.student: group.name for group in groups for student in (*group.students, *group.repeated)}
    first: dict[str, Contender] = {}
    for student in comparison.students:
        assert student.trained is not None, "there are no standings without the weights' artifacts"
        first.setdefault(of_student[student.trained.digest], student)
    return tuple(first.values())


# ---------------------------------------------------------------------------------------------------------- the contest


def common_seeds(groups: Sequence[Variation], key: str) -> list[int]:
    """Returns the seeds with which every variation has a student with a score."""
    seeds = [{student.seed for student in group.students if key in student.scores} for group in groups]
    return sorted(set.intersection(*seeds))


def _comparable(groups: Sequence[Variation], metric: Metric) -> dict[str, NDArray[np.float64]]:
    """Returns scores [seeds, images] by the name of their variation; none if the variations have no seed in common.

    Of a metric that is best near a value, these are the distances from that value.
    """
    seeds = common_seeds(groups, metric.key)
    if not seeds:
        return {}
    by_seed = {group.name: {student.seed: student for student in group.students} for group in groups}
    used = {name: [students[seed] for seed in seeds] for name, students in by_seed.items()}
    by_image = all(metric.key in student.image_scores for students in used.values() for student in students)
    scores = {name: _scores(students, metric.key, by_image=by_image) for name, students in used.items()}
    if metric.better == "nearest":
        return {name: abs(values - metric.best) for name, values in scores.items()}
    return scores


def _better(metric: Metric) -> Literal["lower", "higher"]:
    """Returns which direction is better for what `_comparable` returns."""
    return "higher" if metric.better == "higher" else "lower"


def _scores(students: Sequence[Standing], key: str, *, by_image: bool) -> NDArray[np.float64]:
    """Returns scores [seeds, images], or [seeds, 1] of a metric that is measured on sets of images."""
    values = [student.image_scores[key] if by_image else [student.scores[key]] for student in students]
    return np.array(values, dtype=np.float64)


def _verdict(metric: Metric, found: Contest, reference: str, differences: Mapping[str, Difference]) -> Verdict:
    return Verdict(metric, _sentence(found), _than_reference(metric, reference, differences), _pairs(metric, found))


def _than_reference(metric: Metric, reference: str, differences: Mapping[str, Difference]) -> str:
    if all(difference.interval is None for difference in differences.values()):
        return ""
    real = {name: difference.mean for name, difference in differences.items() if difference.is_real}
    sign = 1 if _better(metric) == "higher" else -1
    sides = {
        "better": [_quoted(name) for name, mean in real.items() if sign * mean > 0],
        "worse": [_quoted(name) for name, mean in real.items() if sign * mean < 0],
    }
    if not real:
        return f"No difference from {_quoted(reference)} is beyond chance."
    parts = [f"{word} than {_quoted(reference)}: {' and '.join(names)}" for word, names in sides.items() if names]
    return f"Beyond chance, {'; '.join(parts)}."


def _quoted(name: str) -> str:
    """Sets a name off from the words around it: names such as "none" or "mse, fresh" read as part of a sentence."""
    return f"“{name}”"


def _sentence(found: Contest) -> str:
    if found.winner is not None:
        return f"{_quoted(found.winner)} wins: its corrected interval against every other variation excludes 0."
    if found.num_seeds < FEWEST_SEEDS:
        return "no winner: the variations have one seed in common, and one seed shows no spread."
    names = dict.fromkeys(name for each in found.differences for name in (each.first, each.second))
    others = [name for name in names if name != found.best and not found.between(found.best, name).is_real]
    if len(others) == len(names) - 1 > 1:
        said = "every other variation"
    elif len(others) < 3:
        said = " and from ".join(map(_quoted, others))
    else:
        said = f"{len(others)} of the {len(names) - 1} others"
    return f"no winner: {_quoted(found.best)} has the best mean, but its difference from {said} may be chance."


def _pairs(metric: Metric, found: Contest) -> list[tuple[str, str, str, str]]:
    return [
        (
            f"{each.first} − {each.second}",
            _difference(metric, each),
            "–" if each.p is None else "< 0.001" if each.p < 0.001 else f"{each.p:.3f}",
            _effect(each),
        )
        for each in found.differences
    ]


def _difference(metric: Metric, difference: Difference) -> str:
    """Writes "+0.012 (−0.004 to +0.028)"; only the mean without an interval."""
    mean, interval = _signed(metric, difference.mean), _interval(metric, difference)
    return f"{mean} ({interval})" if interval else mean


def _below(metric: Metric, difference: Difference) -> tuple[str, ...]:
    """Writes "+0.012, g +0.8" and "−0.004 to +0.028", as far as they are known."""
    effect = "" if difference.effect is None else f", g {_effect(difference)}"
    interval = _interval(metric, difference)
    return f"{_signed(metric, difference.mean)}{effect}", *([interval] if interval else [])


def _interval(metric: Metric, difference: Difference) -> str:
    if difference.interval is None:
        return ""
    low, high = difference.interval
    return f"{_signed(metric, low)} to {_signed(metric, high)}"


def _signed(metric: Metric, value: float) -> str:
    return f"{'+' if value > 0 else ''}{metric.number(value)}"


def _effect(difference: Difference) -> str:
    return "–" if difference.effect is None else with_minus(f"{difference.effect:+.1f}")


# ------------------------------------------------------------------------------------------------------------ the table


def _row(
    group: Variation, metrics: Sequence[Metric], differences: Mapping[Metric, Mapping[str, Difference]]
) -> VariationRow:
    cells = []
    for metric in metrics:
        remarks: tuple[str, ...] = ()
        if group.name in differences.get(metric, {}):
            remarks = _below(metric, differences[metric][group.name])
        cells.append(Cell(_mean_and_spread(metric, _values(group, metric)), remarks))
    costs = [quantity(round(_mean([each.macs for each in group.students]) or 0))]
    for values, digits in ((_steps(group), 0), (_seconds(group), 1)):
        mean = _mean(values)
        costs.append("–" if mean is None else f"{mean:.{digits}f}")
    return VariationRow(group.name, group.colour, len(group.students), costs, cells)


def _steps(group: Variation) -> list[int | None]:
    return [student.steps for student in group.students]


def _seconds(group: Variation) -> list[float | None]:
    return [student.seconds for student in group.students]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known and len(known) == len(values) else None


def _values(group: Variation, metric: Metric) -> list[float]:
    """Returns the scores of a variation; none if one of its students has none that may be compared."""
    values = [student.scores[metric.key] for student in group.students if metric.key in student.scores]
    return values if len(values) == len(group.students) else []


def _mean_and_spread(metric: Metric, values: Sequence[float]) -> str:
    if not values:
        return "–"
    mean = metric.text(statistics.fmean(values))
    if len(values) < 2:
        return mean
    return f"{mean} ± {metric.number(statistics.stdev(values))}"


def _elsewhere(standings: Standings, comparison: Comparison) -> list[str]:
    """Returns a sentence if some students come from earlier reports."""
    own = {student.trained.digest for student in comparison.students if student.trained}
    count = sum(student.student not in own for student in standings.students)
    if count == 0:
        return []
    return [
        f"{count} of these {len(standings.students)} students come from earlier reports; only this section has them."
    ]


def _repeated(groups: Sequence[Variation]) -> list[str]:
    """Returns a sentence if students are left out because another one has their variation and seed."""
    count = sum(len(group.repeated) for group in groups)
    return [f"Students left out because another one has the same variation and seed: {count}."] if count else []


def _unequal_costs(groups: Sequence[Variation]) -> list[str]:
    """Returns a sentence per cost in which variations differ, so that a difference of scores may come from it."""
    sentences = []
    for name, unit, values in (
        ("Multiply-accumulates", "", [_mean([student.macs for student in group.students]) for group in groups]),
        ("Seconds of training", " s", [_mean(_seconds(group)) for group in groups]),
    ):
        known = [value for value in values if value is not None]
        if known and max(known) > EQUAL_COST * min(known):
            low, high = short_number(min(known)), short_number(max(known))
            sentences.append(f"{name} are not equal: {low}{unit} to {high}{unit} in the mean of a variation.")
    return sentences


def _seeds(groups: Sequence[Variation]) -> list[str]:
    """Returns a sentence if some students are left out of the differences, because others have not their seed."""
    all_seeds = {student.seed for group in groups for student in group.students}
    common = {seed for seed in all_seeds if all(seed in {each.seed for each in group.students} for group in groups)}
    if common == all_seeds:
        return []
    listed = ", ".join(map(str, sorted(common)))
    return [f"Differences rest on the seeds that all variations have: {listed or 'none'}."]


# --------------------------------------------------------------------------------------------- the charts and pictures


def _charts(groups: Sequence[Variation], metrics: Sequence[Metric]) -> list[tuple[Metric, str]]:
    charts = []
    for metric in metrics:
        drawn = [Group(group.name, _values(group, metric)) for group in groups]
        if all(group.values for group in drawn):
            read = "; ".join(f"{group.name} {_mean_and_spread(metric, group.values)}" for group in drawn)
            charts.append((metric, groups_chart(drawn, description=f"{metric.label} by variation: {read}")))
    return charts


def _curves(groups: Sequence[Variation]) -> list[tuple[Metric, str]]:
    """Draws scores during the trainings: a thin line per student, a thick one for the mean of a variation."""
    keys = {key for group in groups for student in group.students for key in student.curves}
    charts = []
    for metric in (metric for metric in METRICS if metric.key in keys):
        thin: list[Curve] = []
        thick: list[Curve] = []
        read = []
        for group in groups:
            lines = [student.curves[metric.key] for student in group.students if metric.key in student.curves]
            thin += [Curve(group.colour, line.steps, line.values, faint=True) for line in lines]
            if lines and (steps := _common_steps([line.steps for line in lines])):
                by_step = [dict(zip(line.steps, line.values, strict=True)) for line in lines]
                means = [statistics.fmean(values[step] for values in by_step) for step in steps]
                thick.append(Curve(group.colour, steps, means, dots=True))
                read.append(f"{group.name} {metric.number(means[0])} to {metric.number(means[-1])}")
        description = f"{metric.label} by step, mean over the students of each variation. {'; '.join(read)}."
        charts.append((metric, curves_chart([*thin, *thick], x_label="step", description=description)))
    return charts


def _common_steps(lines: Sequence[Sequence[int]]) -> list[int]:
    return sorted(set.intersection(*map(set, lines)))


def _pictures(
    groups: Sequence[Variation], standings: Standings, comparison: Comparison, pictures: Pictures
) -> list[Shown]:
    """Returns the first held-out image of this run, and its translation by the first student of every variation."""
    evaluation = comparison.students[0].evaluation
    samples = evaluation.read_json("metrics.json")["samples"]
    if not samples:
        return []
    first = samples[0]
    shown = [
        Shown(column, pictures.add(Image.open(evaluation.folder / first[column])), colour)
        for column, colour in (("input", ""), ("target", ""), ("teacher", "teacher"))
        if column in first
    ]
    for group in groups:
        student = next((each for each in group.students if each.sample == first["name"][:200]), None)
        if student is not None and student.student in standings.pictures:
            image = Image.open(io.BytesIO(standings.pictures[student.student]))
            shown.append(Shown(f"{group.name}, seed {student.seed}", pictures.add(image), group.colour))
    return shown
