"""Students of an ablation: grouped by what sets them apart, with mean and spread over seeds."""

from pathlib import Path

import pytest

from components.catlib.config import Pix2PixDistillConfig, ReportConfig
from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.lineage import trace
from components.catlib.reporting.page import render
from components.catlib.reporting.variations import variations
from tests.components.report.small_run import SmallRun, write_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    grid = [(kind, seed) for kind in ("kernel_alignment", "none") for seed in (0, 1)]
    return write_small_run(
        tmp_path_factory.mktemp("run"),
        budgets=("0.5x",) * len(grid),
        distillations=tuple(
            Pix2PixDistillConfig.model_validate({"distiller": kind, "seed": seed}) for kind, seed in grid
        ),
    )


def test_variations_are_means_over_seeds(run: SmallRun) -> None:
    comparison = compare_generators(trace(**run.inputs()))
    found = variations(comparison)
    assert found is not None
    l1 = [metric.key for metric in found.metrics].index("l1")
    # the small run's students have L1 0.25, 0.26, 0.27, 0.28, in the order of the grid
    assert {row.name: (row.count, row.cells[l1]) for row in found.rows} == {
        "kernel alignment": (2, "0.255 ± 0.007"),
        "none": (2, "0.275 ± 0.007"),
    }
    assert [metric.key for metric, _ in found.charts] == [metric.key for metric in found.metrics]


def test_students_are_named_by_what_sets_them_apart(run: SmallRun) -> None:
    names = {student.name for student in compare_generators(trace(**run.inputs())).students}
    assert names == {f"Student 0.5×, {kind}, seed {seed}" for kind in ("kernel alignment", "none") for seed in (0, 1)}


def test_the_page_shows_them(run: SmallRun) -> None:
    lineage = trace(**run.inputs())
    html = render(ReportConfig(name="ablation"), lineage, compare_generators(lineage))
    assert "Variations of the distillation" in html
    assert "0.255 ± 0.007" in html


def test_budgets_alone_are_no_variations(tmp_path: Path) -> None:
    run = write_small_run(tmp_path)
    assert variations(compare_generators(trace(**run.inputs()))) is None


def test_seeds_alone_are_no_variations(tmp_path: Path) -> None:
    seeds = (Pix2PixDistillConfig(seed=0), Pix2PixDistillConfig(seed=1))
    run = write_small_run(tmp_path, distillations=seeds)
    assert variations(compare_generators(trace(**run.inputs()))) is None
