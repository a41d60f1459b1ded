from pathlib import Path

from components.catlib.artifacts import read_manifest, writing
from components.catlib.config import RealStatsConfig
from components.catlib.reporting.summary import TITLES, figures
from tests.components.report.small_run import write_small_run


def shown(folder: Path, metrics: dict[str, float]) -> list[tuple[str, str]]:
    with writing(folder, kind="real_stats", config=RealStatsConfig()) as writer:
        writer.summary["metrics"] = metrics
    return figures(read_manifest(folder))


def test_every_stage_has_a_title_and_figures(tmp_path: Path) -> None:
    run = write_small_run(tmp_path, budgets=("0.3x",))
    made = [run.real_stats, run.teacher, run.students[0], run.distilled[0], run.evaluations[0], run.exports[0]]
    for folder in made:
        manifest = read_manifest(folder)
        assert TITLES[manifest.kind]
        assert figures(manifest)


def test_figures_are_written_for_people(tmp_path: Path) -> None:
    assert shown(tmp_path / "stats", {"student_macs": 2_600_000_000, "share": 0.123456}) == [
        ("student macs", "2.60 G"),
        ("share", "0.1235"),
    ]


def test_scores_are_named_and_rounded_as_in_the_report(tmp_path: Path) -> None:
    metrics = {
        "l1": 0.123456,
        "student_psnr": 14.4444,
        "teacher_frechet_random_features": 30.12345,
        "student_kid_std": 0.25,
    }
    assert shown(tmp_path / "stats", metrics) == [
        ("L1", "0.123"),
        ("student PSNR", "14.44 dB"),
        ("teacher Fréchet distance (random features)", "30.12"),
        ("student kid std", "0.25"),
    ]
