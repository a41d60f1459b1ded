"""Budgets in milliseconds on the page."""

import re
from pathlib import Path
from typing import Any

import pytest

from components.catlib.config import ReportConfig
from components.catlib.networks.families import architecture_from_config
from components.catlib.reporting import page
from components.catlib.reporting.comparison import Together, compare_generators
from components.catlib.reporting.latency import LatencyBudget
from components.catlib.reporting.lineage import Lineage, trace
from components.catlib.reporting.results import caveats, headline, table
from tests.components.catlib.latency.tables import table as latencies
from tests.components.report.small_run import INCEPTION, SIZE, SmallRun, rewrite, write_small_run


def lineage_of(run: SmallRun) -> Lineage:
    return trace(**run.inputs())


def write_run(folder: Path) -> SmallRun:
    """Writes a run whose second student may take 5 ms and takes 4."""
    teacher = architecture_from_config(INCEPTION, in_channels=3, out_channels=3, crop_size=SIZE)
    made = latencies(teacher, SIZE, lambda kind, read, out: 1.0)
    made = made.model_copy(update={"scale": 10 / made.latency(teacher, SIZE), "device": "a CPU"})
    written = write_small_run(folder, budgets=("0.9x", "5ms"), table=made)
    rewrite(written.exports[1], "export.json", lambda facts: facts["latency"].update(timed(4.0)))
    return written


@pytest.fixture
def run(tmp_path: Path) -> SmallRun:
    return write_run(tmp_path)


def timed(milliseconds: float, *, device: str = "a CPU", threads: int = 1) -> dict[str, Any]:
    return {"onnxruntime_one_thread": {"median": milliseconds / 1e3, "threads": threads}, "device": device}


def test_the_front_shows_budget_prediction_macs_time_and_quality(run: SmallRun) -> None:
    lineage = lineage_of(run)
    comparison = compare_generators(lineage)
    facts = {fact.label: fact for fact in headline(comparison).facts}
    latency = facts["Latency of the ONNX file"]
    assert latency.student == "4.00 ms"
    assert re.fullmatch(r"budget 5\.00 ms, predicted [34]\.\d\d ms on a CPU, 1 thread", latency.remark)
    assert {"Multiply-accumulates", "L1 distance"} & set(facts)
    shown = table(comparison)
    place = [column.label for column in shown.columns].index("Latency")
    assert shown.columns[0].label == "MACs"
    assert sorted(row.cells[place].text for row in shown.rows if row.colour) == ["4.00 ms", "–", "–"]
    assert [note for note in caveats(lineage, comparison) if "more than its budget" in note] == []
    text = page.render(ReportConfig(name="small"), lineage, comparison)
    assert latency.remark.removesuffix(" on a CPU, 1 thread") in text
    assert "Student 5 ms" in text


@pytest.mark.parametrize(
    ("latency", "measured", "caveat"),
    [
        (timed(6.0), "6.00 ms", True),
        (timed(6.0, device="a GPU's host"), "6.00 ms on a GPU's host", False),
        (timed(6.0, threads=2), "4.00 ms", False),  # the other time has one thread
    ],
)
def test_a_student_slower_than_its_budget_gets_a_caveat(
    run: SmallRun, latency: dict[str, Any], measured: str, caveat: bool
) -> None:
    rewrite(run.exports[1], "export.json", lambda facts: facts["latency"].update(latency))
    lineage = lineage_of(run)
    comparison = compare_generators(lineage)
    (budget,) = filter(None, (LatencyBudget.of(each, None) for each in comparison.students))
    assert budget.measured_text == measured
    notes = [note for note in caveats(lineage, comparison) if "more than its budget of 5.00 ms" in note]
    assert len(notes) == caveat
    assert all("takes 6.00 ms" in note and "of a CPU, 1 thread predicted" in note for note in notes)


@pytest.mark.parametrize(("threads", "measured"), [(1, "7.00 ms on another CPU"), (2, "4.00 ms")])
def test_what_one_task_measured_of_all_students_counts_before_the_exports(
    run: SmallRun, threads: int, measured: str
) -> None:
    lineage = lineage_of(run)
    seconds = {each.exported.digest: 0.007 for each in lineage.students if each.exported}
    together = Together(seconds, threads=threads, cpu="another CPU", cores=2, load=None)
    comparison = compare_generators(lineage, together=together)
    (budget,) = filter(None, (LatencyBudget.of(each, comparison.together) for each in comparison.students))
    assert budget.measured_text == measured


def test_a_run_without_such_budgets_shows_no_column(tmp_path: Path) -> None:
    comparison = compare_generators(lineage_of(write_small_run(tmp_path)))
    assert "Latency" not in [column.label for column in table(comparison).columns]
