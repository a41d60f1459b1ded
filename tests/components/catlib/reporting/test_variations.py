"""Students of a sweep: grouped by what sets them apart, and compared over seeds and images."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.catlib.config import Pix2PixDistillConfig, ReportConfig
from components.catlib.metrics.catalogue import BY_KEY
from components.catlib.metrics.contest import contest
from components.catlib.recipes import load_recipe
from components.catlib.reporting.comparison import Comparison, compare_generators
from components.catlib.reporting.lineage import trace
from components.catlib.reporting.page import render
from components.catlib.reporting.pictures import Pictures
from components.catlib.reporting.standings import ScoreCurve, Standing, Standings, standings
from components.catlib.reporting.variations import Variations, _comparable, grouped, representatives, variations
from tests.components.report.small_run import SmallRun, write_small_run

SEEDS = (0, 1, 2)
MEANS = {"kernel_alignment": 0.30, "mse": 0.29, "none": 0.10}


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


@pytest.fixture(scope="module")
def comparison(run: SmallRun) -> Comparison:
    return compare_generators(trace(**run.inputs()))


def compared(comparison: Comparison, students: Standings | None = None) -> Variations:
    found = variations(students or standings(comparison), comparison, Pictures())
    assert found is not None
    return found


def student(kind: str, seed: int, **changes: Any) -> Standing:
    """A student of three images whose L1 is that of its kind, and a little worse with every seed."""
    images = [MEANS[kind] + seed / 1000 + image / 100 for image in (-1, 0, 1)]
    made: dict[str, Any] = {
        "student": f"{list(MEANS).index(kind)}{seed}".rjust(64, "a"),
        "budget": "0.5x",
        "settings": {"distiller": {"kind": kind}, "seed": seed, "prune": {"min_channels": 1}},
        "seed": seed,
        "macs": 1000,
        "steps": 50,
        "seconds": 10.0,
        "scores": {"l1": float(np.mean(images))},
        "image_scores": {"l1": images},
        "curves": {"l1": {"steps": [10, 50], "values": [0.5, 0.4 + seed / 10]}},
        "sample": "alps",
    }
    return Standing.model_validate(made | changes)


def championship(comparison: Comparison, students: list[Standing]) -> Variations:
    own = standings(comparison)
    assert own is not None
    return compared(comparison, replace(own, table=own.table.model_copy(update={"students": students})))


def all_students(seeds: Mapping[str, tuple[int, ...]] | None = None) -> list[Standing]:
    return [student(kind, seed) for kind in MEANS for seed in (seeds or {}).get(kind, SEEDS)]


def test_variations_are_means_over_seeds(comparison: Comparison) -> None:
    found = compared(comparison)
    l1 = [metric.key for metric in found.metrics].index("l1")
    # the small run's students have L1 0.25, 0.26, 0.27, 0.28, in the order of the grid
    assert {row.name: (row.count, row.cells[l1].text) for row in found.rows} == {
        "kernel alignment": (2, "0.255 ± 0.007"),
        "none": (2, "0.275 ± 0.007"),
    }
    assert {row.name: row.costs[1:] for row in found.rows} == {
        "kernel alignment": ["40", "40.0"],
        "none": ["40", "40.0"],
    }
    assert [metric.key for metric, _ in found.charts] == [metric.key for metric in found.metrics]


def test_the_winner_is_the_contests(comparison: Comparison) -> None:
    found = championship(comparison, all_students())
    (verdict,) = found.verdicts
    assert verdict.sentence == "“none” wins: its corrected interval against every other variation excludes 0."
    scores = {kind: np.array([student(kind, seed).image_scores["l1"] for seed in SEEDS]) for kind in MEANS}
    difference = contest(scores, better="lower").between("none", "kernel_alignment")
    assert difference.mean == pytest.approx(-0.2)
    assert found.reference == "none"
    assert found.rows[0].cells[0].remarks == ()
    assert found.rows[1].cells[0].remarks[0] == "+0.200"  # every seed differs by as much, so g is not defined
    assert verdict.than_reference == "Beyond chance, worse than “none”: “kernel alignment” and “mse”."
    assert [pair[0] for pair in verdict.pairs] == ["none − kernel alignment", "none − mse", "kernel alignment − mse"]


def test_nearness_is_what_counts_for_a_metric_that_is_best_at_a_value(comparison: Comparison) -> None:
    metric = BY_KEY["gradient_energy_ratio"]
    energies = {"kernel_alignment": 0.9, "mse": 1.3, "none": 0.4}
    students = [
        student(kind, seed, scores={metric.key: energies[kind] + seed / 1000}, image_scores={}, curves={})
        for kind in energies
        for seed in SEEDS
    ]
    scores = _comparable(grouped(students), metric)
    assert scores["mse"][:, 0] == pytest.approx([0.3, 0.301, 0.302])
    assert scores["none"][:, 0] == pytest.approx([0.6, 0.599, 0.598])
    assert _comparable(grouped(students), BY_KEY["l1"]) == {}
    found = {verdict.metric.key: verdict for verdict in championship(comparison, students).verdicts}
    assert found[metric.key].sentence.startswith("“kernel alignment” wins")
    assert found[metric.key].than_reference == "Beyond chance, better than “none”: “kernel alignment” and “mse”."


def test_nobody_wins_by_chance(comparison: Comparison) -> None:
    noisy = [
        student(kind, seed, scores={"l1": score}, image_scores={})
        for kind, scores in {"mse": (0.1, 0.3, 0.2), "none": (0.2, 0.2, 0.21)}.items()
        for seed, score in zip(SEEDS, scores, strict=True)
    ]
    found = championship(comparison, noisy)
    assert found.verdicts[0].sentence == (
        "no winner: “mse” has the best mean, but its difference from “none” may be chance."
    )
    assert found.verdicts[0].than_reference == "No difference from “none” is beyond chance."
    low, high = found.rows[1].cells[0].remarks[1].replace("−", "-").split(" to ")
    assert float(low) < 0 < float(high)


def test_the_sentence_counts_variations_that_may_be_as_good(comparison: Comparison) -> None:
    kinds = ("kernel_alignment", "mse", "none", "wavelet", "omgd")
    noise = np.random.default_rng(0).normal(scale=0.01, size=(len(kinds), len(SEEDS)))
    scores = {kind: noise[i] + (9.0 if kind == "omgd" else 0.1) for i, kind in enumerate(kinds)}
    found = championship(
        comparison,
        [
            student(
                "mse",
                seed,
                student=f"{kinds.index(kind):032x}{seed:032x}",
                settings={"distiller": kind},
                scores={"l1": float(score)},
                image_scores={},
            )
            for kind in kinds
            for seed, score in zip(SEEDS, scores[kind], strict=True)
        ],
    )
    assert "its difference from 3 of the 4 others may be chance." in found.verdicts[0].sentence


def test_one_seed_names_no_winner(comparison: Comparison) -> None:
    found = championship(comparison, [student(kind, 0) for kind in MEANS])
    assert found.verdicts[0].sentence.startswith("no winner: the variations have one seed in common")
    assert found.verdicts[0].than_reference == ""
    assert found.rows[1].cells[0].remarks == ("+0.200",)


def test_only_seeds_of_all_variations_are_compared(comparison: Comparison) -> None:
    found = championship(comparison, all_students({"none": (1, 2)}))
    assert "Differences rest on the seeds that all variations have: 1, 2." in found.remarks
    assert [row.count for row in found.rows] == [2, 3, 3]
    apart = championship(comparison, [student("mse", 0), student("none", 1)])
    assert apart.verdicts == []
    assert "Differences rest on the seeds that all variations have: none." in apart.remarks


def test_a_seed_counts_once(comparison: Comparison) -> None:
    again = [student("mse", 1, student="b" * 64), student("mse", 1, student="c" * 64)]
    found = championship(comparison, [*all_students(), *again])
    assert [row.count for row in found.rows] == [3, 3, 3]
    assert "Students left out because another one has the same variation and seed: 2." in found.remarks


def test_unequal_costs_are_stated(comparison: Comparison) -> None:
    equal = championship(comparison, all_students())
    assert not any("not equal" in remark for remark in equal.remarks)
    slow = [
        student(each_kind, seed, seconds=20.0 if each_kind == "mse" else 10.0) for each_kind in MEANS for seed in SEEDS
    ]
    assert (
        "Seconds of training are not equal: 10 s to 20 s in the mean of a variation."
        in championship(comparison, slow).remarks
    )


def test_curves_are_means_over_seeds(comparison: Comparison) -> None:
    ((metric, svg),) = championship(comparison, all_students()).curves
    assert metric.key == "l1"
    assert "kernel alignment 0.500 to 0.500" in svg  # of 0.4, 0.5 and 0.6 in the end
    unlike = [student("mse", 0), student("mse", 1, curves={"l1": ScoreCurve(steps=[30], values=[0.2])})]
    assert "mse" not in championship(comparison, [*unlike, student("none", 0)]).curves[0][1]


def test_pictures_stand_side_by_side(comparison: Comparison) -> None:
    assert [shown.caption for shown in compared(comparison).pictures] == [
        *("input", "target", "teacher", "none, seed 0", "kernel alignment, seed 0")
    ]


def test_variations_of_pruning_and_of_length() -> None:
    cut = [student("mse", 0), student("mse", 0, settings={**student("mse", 0).settings, "prune": {"min_channels": 8}})]
    assert [group.name for group in grouped(cut)] == ["prune min channels 1", "prune min channels 8"]
    timed = [
        student("mse", 0, settings={"distiller": "mse", "steps": 90}),
        student("none", 0, settings={"distiller": "none", "steps": 120}),
    ]
    assert [group.name for group in grouped(timed)] == ["mse", "none"]
    championship = [
        student("mse", 0, settings={"distiller": {"kind": kind, **more}, "adversarial": adversarial, "steps": steps})
        for kind, more, adversarial, steps in (
            ("none", {}, 1.0, 90),
            ("omgd", {"online": False}, 0.0, 40),
            ("omgd", {"online": True}, 1.0, 30),
        )
    ]
    assert [group.name for group in grouped(championship)] == [*("none", "omgd, not online", "omgd, online")]
    longer = [student("mse", 0, settings={"steps": steps}, steps=steps) for steps in (1200, 90, 120)]
    assert [group.name for group in grouped(longer)] == ["steps 90", "steps 120", "steps 1200"]


def test_variations_of_one_recipe_are_named_by_what_they_change() -> None:
    plain = {"steps": 300, "batch_size": 8, "prune": {"student_init": "fresh"}, "distiller": {"layer_weights": None}}
    changes: list[dict[str, Any]] = [
        {"batch_size": 16, "steps": 190},
        {"prune": {"student_init": "inherit"}},
        {"distiller": {"layer_weights": [4.0, 0.0]}},
        {"steps": 600},
        {},
    ]
    students = [student("mse", 0, settings={**plain, **change}) for change in changes]
    assert [group.name for group in grouped(students)] == [
        "steps 300, batch size 8, fresh",
        *("batch size 16", "distiller layer weights 4 0", "inherit", "steps 600"),
    ]
    both = {"batch_size": 16, "prune": {"student_init": "inherit"}, "steps": 190}
    crossed = [*students, student("mse", 0, settings={**plain, **both})]
    assert "batch size 16, inherit" in [group.name for group in grouped(crossed)]


def test_without_a_student_without_a_distiller_the_unchanged_settings_are_the_reference() -> None:
    recipe = load_recipe("ablation")
    sections = [student.distill.model_dump(mode="json", exclude_none=True) for student in recipe.variations()]
    prunes = [student.prune.model_dump(mode="json", exclude_none=True) for student in recipe.variations()]
    students = [
        student("mse", 0, settings={**distill, "prune": prune}, steps=distill["steps"], student=f"{number}" * 64)
        for number, (distill, prune) in enumerate(zip(sections, prunes, strict=True))
    ]
    for order in (students, students[::-1], sorted(students, key=lambda each: str(each.steps))):
        assert grouped(order)[0].students == (students[0],)


def test_students_are_named_by_what_sets_them_apart(comparison: Comparison) -> None:
    names = {student.name for student in comparison.students}
    assert names == {f"Student 0.5×, {kind}, seed {seed}" for kind in ("kernel alignment", "none") for seed in (0, 1)}


def test_the_page_shows_one_student_of_each_variation_in_detail(run: SmallRun, comparison: Comparison) -> None:
    shown = [student.name for student in representatives(standings(comparison), comparison)]
    assert shown == ["Student 0.5×, kernel alignment, seed 0", "Student 0.5×, none, seed 0"]
    html = render(ReportConfig(name="sweep"), trace(**run.inputs()), comparison)
    assert "Variations of the distillation" in html
    assert "0.255 ± 0.007" in html
    assert html.count("One student of each variation is shown.") == 3  # pictures, trainings and ONNX files
    assert "none, seed 0, while it learned" in html
    assert "none, seed 1, while it learned" not in html


def test_budgets_alone_are_no_variations(tmp_path: Path) -> None:
    comparison = compare_generators(trace(**write_small_run(tmp_path).inputs()))
    assert variations(standings(comparison), comparison, Pictures()) is None
    assert representatives(standings(comparison), comparison) == comparison.students


def test_seeds_alone_are_no_variations(tmp_path: Path) -> None:
    seeds = (Pix2PixDistillConfig(seed=0), Pix2PixDistillConfig(seed=1))
    comparison = compare_generators(trace(**write_small_run(tmp_path, distillations=seeds).inputs()))
    assert variations(standings(comparison), comparison, Pictures()) is None
