"""Results of a run: the headline, the table of all generators, charts of cost against quality, and caveats."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from components.catlib.artifacts import Manifest
from components.catlib.code_digest import code_digest
from components.catlib.metrics.catalogue import BY_KEY, Metric
from components.catlib.reporting.charts import Mark, cost_chart
from components.catlib.reporting.comparison import Comparison, Contender, Score
from components.catlib.reporting.formatting import factor, file_size, milliseconds, quantity, words
from components.catlib.reporting.latency import LatencyBudget
from components.catlib.reporting.lineage import Lineage

L1 = BY_KEY["l1"]
MIOU = BY_KEY["miou"]

# ------------------------------------------------------------------------------------------------------------- headline


@dataclass(frozen=True)
class Fact:
    """A headline figure.

    Attributes:
        label: Name of the figure.
        student: The student's value.
        teacher: The teacher's, if known.
        remark: A few words about it.
        spread: Half the width of the confidence interval of the student's value.
    """

    label: str
    student: str
    teacher: str | None
    remark: str = ""
    spread: str = ""


@dataclass(frozen=True)
class Headline:
    """The first section: all students in brief, and figures of the one with the fewest MACs.

    Attributes:
        student: The student.
        ratio: How many times fewer MACs it has than the teacher; None without a teacher.
        place: Its place among several students.
        size: Height × width of the images.
        facts: Its figures.
        glance: MACs, time and headline metric of every generator, where there are several students; else None.
    """

    student: Contender
    ratio: str | None
    place: str
    size: str
    facts: list[Fact]
    glance: Table | None


def headline(comparison: Comparison) -> Headline:
    """Compares the smallest student with its teacher."""
    student, teacher = comparison.smallest, comparison.teacher
    ratio = teacher.macs / student.macs if teacher else None
    return Headline(
        student=student,
        ratio=None if ratio is None else f"{ratio:.1f}" if ratio < 100 else f"{ratio:.0f}",
        place=_place(comparison),
        size="×".join(map(str, student.protocol["size"])),
        facts=[
            _cost_fact("Multiply-accumulates", "paper_macs", student, teacher),
            _cost_fact("Parameters", "parameters", student, teacher),
            *_quality_facts(comparison),
            *_latency_facts(comparison),
            *_time_facts(comparison),
        ],
        glance=_glance(comparison) if len(comparison.students) > 1 else None,
    )


def _place(comparison: Comparison) -> str:
    count = len(comparison.students)
    if count == 1:
        return ""
    alike = sum(student.macs == comparison.smallest.macs for student in comparison.students)
    return f"; the smallest of {count} students" if alike == 1 else f"; one of {alike} equally small students"


def _cost_fact(label: str, key: str, student: Contender, teacher: Contender | None) -> Fact:
    beside = quantity(teacher.figures[key]) if teacher else None
    remark = factor(teacher.figures[key] / student.figures[key]) if teacher else ""
    return Fact(label, quantity(student.figures[key]), beside, remark)


def _quality_facts(comparison: Comparison) -> list[Fact]:
    """Returns the headline metric and the prominent ones, which show how close each image is to its target."""
    first, *others = comparison.metrics
    facts = []
    for metric in (first, *(metric for metric in others if metric.prominent)):
        own = comparison.score(comparison.smallest, metric)
        beside = comparison.score(comparison.teacher, metric) if comparison.teacher else None
        if own is not None:
            facts.append(
                Fact(
                    metric.label,
                    metric.text(own.value),
                    f"{metric.text(beside.value)} {_spread(metric, beside)}" if beside else None,
                    metric.goal,
                    _spread(metric, own),
                )
            )
    return facts


def _latency_facts(comparison: Comparison) -> list[Fact]:
    """Puts a budget in milliseconds beside what the ONNX file takes."""
    budget = LatencyBudget.of(comparison.smallest, comparison.together)
    if budget is None:
        return []
    remark = f"budget {milliseconds(budget.limit)}, predicted {milliseconds(budget.predicted)} on {budget.place}"
    return [Fact("Latency of the ONNX file", budget.measured_text, None, remark)]


def _time_facts(comparison: Comparison) -> list[Fact]:
    student = comparison.smallest
    beside = milliseconds(student.teacher_latency["median"]) if student.teacher_latency else None
    remark = f"{factor(student.ratio['latency'])}, measured in turn" if "latency" in student.ratio else ""
    facts = [Fact("Time per image (CPU)", milliseconds(student.figures["latency_ms"]["median"]), beside, remark)]
    if timed := comparison.against_teacher(student):
        facts = [_runtime_fact(timed)]
    if student.exported is not None:
        exported = student.exported.read_json("export.json")
        runtime = f"{milliseconds(1e3 * comparison.onnx_seconds(student))} per image in ONNX Runtime"
        facts.append(Fact("ONNX file", file_size(exported["bytes"]), None, runtime))
    return facts


def _runtime_fact(timed: Mapping[str, Any]) -> Fact:
    """Compares the times of student and teacher as ONNX files."""
    return Fact(
        f"Time per image ({timed['runtime']}, CPU)",
        milliseconds(timed["student_milliseconds"]),
        milliseconds(timed["teacher_milliseconds"]),
        f"{factor(timed['times_faster'])}, measured in turn; threads: {timed['threads']}",
    )


def _glance(comparison: Comparison) -> Table:
    """Puts MACs, time and headline metric of all generators side by side."""
    metric = comparison.metrics[0]
    in_onnx = all(student.exported for student in comparison.students)
    columns = [
        Column("MACs"),
        Column(f"Time per image ({'ONNX Runtime, ' * in_onnx}CPU)"),
        Column(metric.label, arrow=metric.arrow, goal=metric.goal),
    ]
    rows = []
    for contender in comparison.contenders:
        time = _onnx_time_cell(comparison, contender) if in_onnx else Cell(_time_cell(comparison, contender).text)
        cells = [Cell(quantity(contender.macs)), time, _score_cell(comparison, contender, metric)]
        rows.append(Row(contender.name, contender.colour, cells))
    return Table(columns, rows)


def _onnx_time_cell(comparison: Comparison, contender: Contender) -> Cell:
    """Writes the time of a student's ONNX file; for the teacher the range over all measurements beside students."""
    if contender is not comparison.teacher:
        return Cell(milliseconds(1e3 * comparison.onnx_seconds(contender)))
    beside = [
        timed["teacher_milliseconds"] for each in comparison.students if (timed := comparison.against_teacher(each))
    ]
    return Cell(_range(beside)) if beside else NOTHING


def _range(times: Sequence[float]) -> str:
    """Writes the smallest and the largest of times in milliseconds, or one if they read alike."""
    low, high = milliseconds(min(times)), milliseconds(max(times))
    return low if low == high else f"{low} to {high}"


# ---------------------------------------------------------------------------------------------------------------- table


@dataclass(frozen=True)
class Column:
    """A column of the table: heading, meaning, and the better direction as a sign and in words ("" if obvious)."""

    label: str
    meaning: str = ""
    arrow: str = ""
    goal: str = ""


@dataclass(frozen=True)
class Cell:
    """A figure with a smaller remark behind it, or a withheld one."""

    text: str
    remark: str = ""
    withheld: bool = False


@dataclass(frozen=True)
class Row:
    """A generator, or a baseline when it has no colour."""

    name: str
    colour: str
    cells: list[Cell]


@dataclass(frozen=True)
class Table:
    """All generators, the teacher first, then the baselines."""

    columns: list[Column]
    rows: list[Row]


NOTHING = Cell("–")
LOWER = ("↓", "lower is better")


def table(comparison: Comparison) -> Table:
    """Puts all generators side by side."""
    any_exported = any(student.exported for student in comparison.students)
    columns = [
        Column("MACs", meaning="Multiply-accumulates of one image, counted as budgets and papers count them."),
        Column("MACs executed", meaning="Multiply-adds that a device executes for one image; a stricter count."),
        Column("Parameters", meaning="Learned values of the generator."),
        *(Column(metric.label, metric.meaning, metric.arrow, metric.goal) for metric in comparison.metrics),
        Column("Time per image", "Median on the CPU, one image at a time, student and teacher in turn.", *LOWER),
    ]
    latencies = {each.name: LatencyBudget.of(each, comparison.together) for each in comparison.students}
    if any(latencies.values()):
        meaning = "Time of the ONNX file for one image, with its budget and the prediction."
        columns.insert(3, Column("Latency", meaning, *LOWER))
    if any_exported:
        columns.append(Column("ONNX", meaning="Size of the file, and its time per image in ONNX Runtime."))
    rows = [
        Row(
            contender.name,
            contender.colour,
            [
                *_cost_cells(contender),
                *([_latency_cell(latencies.get(contender.name))] if any(latencies.values()) else []),
                *(_score_cell(comparison, contender, metric) for metric in comparison.metrics),
                _time_cell(comparison, contender),
                *([_onnx_cell(comparison, contender)] if any_exported else []),
            ],
        )
        for contender in comparison.contenders
    ]
    return Table(columns, rows + _baseline_rows(comparison, columns))


def _cost_cells(contender: Contender) -> list[Cell]:
    return [
        Cell(quantity(contender.figures[key]), factor(contender.ratio[key]) if key in contender.ratio else "")
        for key in ("paper_macs", "true_macs", "parameters")
    ]


def _latency_cell(budget: LatencyBudget | None) -> Cell:
    if budget is None:
        return NOTHING
    remark = f"budget {milliseconds(budget.limit)}, predicted {milliseconds(budget.predicted)}"
    return Cell(budget.measured_text, remark)


def _score_cell(comparison: Comparison, contender: Contender, metric: Metric) -> Cell:
    if (contender.name, metric.key) in comparison.withheld:
        return Cell("withheld", withheld=True)
    score = contender.score(metric)
    return Cell(metric.text(score.value), _spread(metric, score)) if score else NOTHING


def _time_cell(comparison: Comparison, contender: Contender) -> Cell:
    """Writes a student's time and the teacher's, measured in turn; for the teacher the range over all students."""
    if contender is comparison.teacher:
        medians = [student.teacher_latency["median"] for student in comparison.students if student.teacher_latency]
        return Cell(_range(medians))
    beside = f", teacher {milliseconds(contender.teacher_latency['median'])}" if contender.teacher_latency else ""
    ratio = factor(contender.ratio["latency"]) if "latency" in contender.ratio else ""
    return Cell(milliseconds(contender.figures["latency_ms"]["median"]), ratio + beside)


def _onnx_cell(comparison: Comparison, contender: Contender) -> Cell:
    if contender.exported is None:
        return NOTHING
    facts = contender.exported.read_json("export.json")
    return Cell(file_size(facts["bytes"]), milliseconds(1e3 * comparison.onnx_seconds(contender)))


def _baseline_rows(comparison: Comparison, columns: list[Column]) -> list[Row]:
    """Returns the rows of the baselines; cells of metrics that were not measured stay empty."""
    measured = {"Input unchanged": comparison.baseline.get("unchanged_input", {})}
    if "constant_l1" in comparison.baseline:
        measured["Best single colour"] = {L1.key: comparison.baseline["constant_l1"]}
    rows = []
    for name, values in measured.items():
        by_label = {
            metric.label: Cell(metric.text(values[metric.key])) for metric in comparison.metrics if metric.key in values
        }
        if by_label:
            rows.append(Row(name, "", [by_label.get(column.label, NOTHING) for column in columns]))
    return rows


def _spread(metric: Metric, score: Score) -> str:
    return f"± {metric.number(score.spread)}" if score.spread is not None else ""


# -------------------------------------------------------------------------------------------------- charts and caveats


def cost_charts(comparison: Comparison) -> list[tuple[Metric, str]]:
    """Draws MACs against every metric when there are students of several sizes."""
    if len({student.macs for student in comparison.students}) < 2:
        return []
    charts = []
    for metric in comparison.metrics:
        marks = [
            Mark(contender.name, contender.colour, contender.macs, score.value, score.interval)
            for contender in comparison.contenders
            if (score := comparison.score(contender, metric)) is not None
        ]
        if len(marks) > 1:
            read = "; ".join(f"{mark.name}: {quantity(mark.macs)} MACs, {metric.text(mark.value)}" for mark in marks)
            charts.append((metric, cost_chart(marks, description=f"{metric.label} against MACs. {read}.")))
    return charts


def caveats(lineage: Lineage, comparison: Comparison) -> list[str]:
    """Returns the caveats that a reader needs before trusting the numbers, one or two sentences each."""
    notes = comparison.notes()
    notes += [metric.caveat for metric in comparison.metrics if metric.caveat]
    street_scenes = lineage.dataset is not None and lineage.dataset.manifest.summary.get("has_ground_truth")
    if street_scenes and MIOU not in comparison.metrics:
        notes.append(f"{MIOU.label} was not measured: no segmenter was given (evaluate.segmenter).")
    notes += _beaten_by_a_colour(comparison)
    for student in comparison.students:
        if (latency := LatencyBudget.of(student, comparison.together)) and (caveat := latency.caveat(student.name)):
            notes.append(caveat)
        if student.pruned:
            notes += [f"{student.name}: {note}" for note in student.pruned.read_json("pruning.json")["notes"]]
    notes += _of_other_code(lineage)
    return notes + _measured_together(comparison)


def _measured_together(comparison: Comparison) -> list[str]:
    """States where and beside what the students' ONNX files were timed, if one process timed them all."""
    found = comparison.together
    if found is None:
        return []
    load = "unknown" if found.load is None else f"{found.load:.1f} processes for {found.cores} cores"
    return [
        "The times of the ONNX files beside MACs and scores were measured in turn by one task, after all students were "
        f"finished, on {found.cpu} with {found.threads} thread{'s' * (found.threads > 1)}; load of that machine in the "
        f"minute before: {load}. Times in PyTorch come from each student's own evaluation, beside whatever ran then."
    ]


def _of_other_code(lineage: Lineage) -> list[str]:
    """Names the kinds of artifacts that the stages of this version of the code did not write."""
    found = {item.manifest.kind: None for item in lineage.artifacts() if not _of_this_code(item.manifest)}
    if not found:
        return []
    return [f"Other versions of the code wrote: {', '.join(map(words, found))}; the table of artifacts lists them."]


def _of_this_code(manifest: Manifest) -> bool:
    stages = [manifest.kind, *(["fetch_teacher"] if manifest.kind == "teacher" else [])]
    return manifest.code_digest in map(code_digest, stages)


def _beaten_by_a_colour(comparison: Comparison) -> list[str]:
    """Names the generators that are no closer to the true images than a picture of a single colour."""
    if "constant_l1" not in comparison.baseline:
        return []
    scores = {each.name: comparison.score(each, L1) for each in comparison.contenders}
    beaten = [name for name, score in scores.items() if score and score.value >= comparison.baseline["constant_l1"]]
    if not beaten:
        return []
    colour = L1.text(comparison.baseline["constant_l1"])
    *others, last = beaten
    names = f"{', '.join(others)} and {last}" if others else last
    return [f"By {L1.label}, {names} did not beat a picture of the best single colour ({colour})."]
