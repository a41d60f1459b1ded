"""What every Kubeflow component does around its stage."""

import json
import logging
from pathlib import Path

import pytest
from kfp import dsl

from components.catlib.artifacts import read_manifest, writing
from components.catlib.config import EvaluateConfig, Pix2PixConfig, RealStatsConfig
from components.catlib.errors import Interrupted, UserError
from components.catlib.metrics.segmentation import SEGMENTATION_FILE
from components.kubeflow import CHECKPOINTS_VARIABLE, checkpoint, publish, stage_process


def artifact(folder: Path, metrics: dict | None = None) -> dsl.Artifact:
    with writing(folder, kind="real_stats", config=RealStatsConfig()) as writer:
        (writer.folder / "file").write_bytes(b"content")
        writer.summary["metrics"] = metrics or {}
    return dsl.Artifact(name="given", uri=str(folder))


def test_an_output_is_shown_with_figures_a_summary_a_page_and_a_link(tmp_path: Path) -> None:
    output = artifact(tmp_path / "out", {"images": 24, "missing": None})
    shown = {name: tmp_path / "ui" / name for name in ("metrics", "summary", "page", "link")}
    metrics = dsl.Metrics(name="metrics", uri=str(shown["metrics"]))
    publish(
        output,
        metrics=metrics,
        summary=dsl.Markdown(name="summary", uri=str(shown["summary"])),
        page=dsl.HTML(name="page", uri=str(shown["page"])),
        tensorboard=dsl.Artifact(name="link", uri=str(shown["link"])),
    )
    assert output.metadata == {"kind": "real_stats", "digest": read_manifest(tmp_path / "out").digest()}
    assert metrics.metadata == {"images": 24.0}
    assert json.loads(shown["metrics"].read_text()) == {"images": 24.0}
    assert "- images: **24**" in shown["summary"].read_text()
    assert shown["page"].read_text().startswith("<!DOCTYPE html>")
    (link,) = json.loads(shown["link"].read_text())["outputs"]
    assert link == {"type": "tensorboard", "source": f"{tmp_path}/out/tensorboard"}


def test_a_confusion_matrix_is_shown_as_one_and_without_a_segmenter_there_is_an_empty_file(tmp_path: Path) -> None:
    matrix = [[5, 1], [0, 3]]
    facts = {"classes": ["road", "car"], "generators": {"student": {"iou": [83.3, 75.0], "confusion": matrix}}}
    with writing(tmp_path / "with", kind="evaluate", config=EvaluateConfig()) as writer:
        writer.write_json(SEGMENTATION_FILE, facts)
    shown = dsl.ClassificationMetrics(name="confusion", uri=str(tmp_path / "ui/with"))
    publish(dsl.Artifact(name="given", uri=str(tmp_path / "with")), confusion=shown)
    assert shown.metadata["confusionMatrix"] == {
        "annotationSpecs": [{"displayName": "road"}, {"displayName": "car"}],
        "rows": [{"row": [5, 1]}, {"row": [0, 3]}],
    }
    assert json.loads((tmp_path / "ui/with").read_text()) == shown.metadata
    none = dsl.ClassificationMetrics(name="confusion", uri=str(tmp_path / "ui/without"))
    publish(artifact(tmp_path / "without"), confusion=none)
    assert none.metadata == {}
    assert json.loads((tmp_path / "ui/without").read_text()) == {}


def test_an_output_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    output = artifact(tmp_path / "out")
    (tmp_path / "out" / "file").unlink()
    with pytest.raises(UserError, match="missing or has the wrong size"):
        publish(output)


def test_checkpoints_are_kept_where_the_environment_says_even_of_a_finished_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = artifact(tmp_path / "dataset")
    monkeypatch.delenv(CHECKPOINTS_VARIABLE, raising=False)
    with checkpoint("teacher", Pix2PixConfig(), [dataset]) as address:
        assert address is None
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, str(tmp_path / "states"))
    with pytest.raises(Interrupted), checkpoint("teacher", Pix2PixConfig(), [dataset]) as address:
        assert address is not None
        Path(address).mkdir(parents=True)
        raise Interrupted("killed")
    with checkpoint("teacher", Pix2PixConfig(), [dataset]) as again:
        assert again == address
        (Path(again) / "step").touch()
    assert (Path(again) / "step").is_file()
    with checkpoint("teacher", Pix2PixConfig(epochs=1), [dataset]) as other:
        assert other != address


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("No folder."), 2, "[teacher] ERROR: No folder."),
        (Interrupted("Stopped."), 75, "[teacher] INTERRUPTED: Stopped."),
    ],
)
def test_an_end_is_one_line_and_an_exit_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = logging.getLogger().handlers
    with pytest.raises(SystemExit) as ended, stage_process("teacher"):
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == line + "\n"
    assert logging.getLogger().handlers == handlers
