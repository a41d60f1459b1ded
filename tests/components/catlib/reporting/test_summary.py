from pathlib import Path

from components.catlib.artifacts import writing
from components.catlib.config import RealStatsConfig
from components.catlib.reporting.summary import markdown
from tests.components.report.small_run import write_small_run


def test_every_stage_has_a_summary(tmp_path: Path) -> None:
    run = write_small_run(tmp_path, budgets=("0.3x",))
    made = [run.real_stats, run.teacher, run.students[0], run.distilled[0], run.evaluations[0], run.exports[0]]
    for folder in made:
        text = markdown(folder)
        assert text.startswith("# ")
        assert "```yaml" in text
        assert len(text) < 400_000


def test_figures_are_written_for_people(tmp_path: Path) -> None:
    with writing(tmp_path / "stats", kind="real_stats", config=RealStatsConfig()) as writer:
        writer.summary["metrics"] = {"student_macs": 2_600_000_000, "share": 0.123456}
    assert "- student macs: **2.60 G**" in markdown(tmp_path / "stats")
    assert "- share: **0.1235**" in markdown(tmp_path / "stats")


def test_scores_are_named_and_rounded_as_in_the_report(tmp_path: Path) -> None:
    with writing(tmp_path / "stats", kind="real_stats", config=RealStatsConfig()) as writer:
        writer.summary["metrics"] = {
            "l1": 0.123456,
            "student_psnr": 14.4444,
            "teacher_frechet_random_features": 30.12345,
            "student_kid_std": 0.25,
        }
    text = markdown(tmp_path / "stats")
    assert "- L1: **0.123**" in text
    assert "- student PSNR: **14.44 dB**" in text
    assert "- teacher Fréchet distance (random features): **30.12**" in text
    assert "- student kid std: **0.25**" in text
