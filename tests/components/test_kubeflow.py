"""What every Kubeflow component does around its stage."""

import importlib
import inspect
import json
import logging
import os
import re
import signal
from pathlib import Path

import pytest
from kfp import dsl
from kfp.dsl.python_component import PythonComponent

from components import kubeflow
from components.catlib.artifacts import read_manifest, writing
from components.catlib.code_digest import code_and_library_digest, code_digest
from components.catlib.config import RealStatsConfig
from components.catlib.errors import Interrupted, OutOfMemory, Unavailable, UserError
from components.catlib.training.upkeep import CHECKPOINTS_VARIABLE
from components.kubeflow import publish, refusal, stage_process
from components.tensorboard.component import show_tensorboard


def artifact(folder: Path, metrics: dict | None = None) -> dsl.Artifact:
    with writing(folder, kind="real_stats", config=RealStatsConfig()) as writer:
        (writer.folder / "file").write_bytes(b"content")
        writer.summary["metrics"] = metrics or {}
    return dsl.Artifact(name="given", uri=str(folder))


def test_an_output_is_shown_with_figures_and_a_page(tmp_path: Path) -> None:
    output = artifact(tmp_path / "out", {"images": 24, "missing": None})
    shown = {name: tmp_path / "ui" / name for name in ("metrics", "page")}
    metrics = dsl.Metrics(name="metrics", uri=str(shown["metrics"]))
    publish(output, metrics=metrics, page=dsl.HTML(name="page", uri=str(shown["page"])))
    assert output.metadata == {"kind": "real_stats", "digest": read_manifest(tmp_path / "out").digest()}
    assert metrics.metadata == {"images": 24.0}
    assert json.loads(shown["metrics"].read_text()) == {"images": 24.0}
    page = shown["page"].read_text()
    assert page.startswith("<!DOCTYPE html>")
    assert "<dt>images</dt><dd>24</dd>" in page
    assert "batch_size:" in page, "the settings"


def test_tensorboard_finds_the_curves_of_a_training(tmp_path: Path) -> None:
    link = dsl.Artifact(name="link", uri=str(tmp_path / "ui" / "link"))
    training = dsl.Model(name="teacher", uri="minio://cat/run/teacher")
    show_tensorboard.python_func(training=training, mlpipeline_ui_metadata=link)
    assert json.loads(Path(link.path).read_text()) == {
        "version": "v1",
        "outputs": [{"type": "tensorboard", "source": "minio://cat/run/teacher/tensorboard"}],
    }


LOST = "cat/artifacts/compress/ff800cd8-ee02-42bc-a2d0-4d5b39052a1b/train-teacher/ee8d6546/teacher"


@pytest.mark.parametrize(("folder", "scheme"), [("minio", "minio"), ("s3", "s3"), ("gcs", "gs")])
def test_an_input_that_the_store_has_lost_is_told_with_what_to_do(
    folder: str, scheme: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Kubeflow's launcher fetches nothing then, without an error."""
    with pytest.raises(SystemExit) as ended, stage_process("prune", code_digest("prune")):
        read_manifest(Path(f"/{folder}/{LOST}"), "teacher")
    assert ended.value.code == 2
    assert capfd.readouterr().err.splitlines()[-1] == (
        f"[prune] ERROR: {scheme}://{LOST}, the result of train-teacher, is not whole in the store any more, though "
        "Kubeflow's cache answered with it; submit the run again with --no-cache train-teacher."
    )


def test_an_empty_or_partial_input_is_a_lost_one_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    pattern = re.compile(re.escape(str(tmp_path)) + kubeflow._LAUNCHERS_FOLDER.pattern)
    monkeypatch.setattr(kubeflow, "_LAUNCHERS_FOLDER", pattern)
    empty, partial = (tmp_path / "minio" / LOST.replace("ee8d6546", name) for name in ("empty", "partial"))
    empty.mkdir(parents=True)
    artifact(partial)
    (partial / "file").unlink()
    for lost in (empty, partial):
        with pytest.raises(SystemExit), stage_process("prune", code_digest("prune")):
            read_manifest(lost)
        assert "with --no-cache train-teacher." in capfd.readouterr().err
    with pytest.raises(SystemExit), stage_process("prune", code_digest("prune")):
        read_manifest(tmp_path / "elsewhere")
    assert "There is no folder" in capfd.readouterr().err


def test_an_output_that_is_not_whole_is_refused(tmp_path: Path) -> None:
    output = artifact(tmp_path / "out")
    (tmp_path / "out" / "file").unlink()
    with pytest.raises(UserError, match="missing or has the wrong size"):
        publish(output)


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize(("stage", "next_"), [("dataset", "to start over"), ("teacher", "from the newest checkpoint")])
def test_a_request_to_stop_ends_a_stage_with_a_line(
    number: int, stage: str, next_: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CHECKPOINTS_VARIABLE, "states")
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended, stage_process(stage, code_digest(stage)):
        os.kill(os.getpid(), number)
    assert ended.value.code == 75
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"[{stage}] INTERRUPTED: Stage {stage}: nothing was published; ")
    assert next_ in line
    assert signal.getsignal(number) is before


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("No folder."), 2, "[teacher] ERROR: No folder."),
        (Interrupted("Stopped."), 75, "[teacher] INTERRUPTED: Stopped."),
        (Unavailable("Away."), 75, "[teacher] UNAVAILABLE: Away."),
        (OutOfMemory("Short."), 1, "[teacher] OUT OF MEMORY: Short."),
    ],
)
def test_an_end_is_one_line_and_an_exit_code(
    error: Exception, code: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    handlers = logging.getLogger().handlers
    with pytest.raises(SystemExit) as ended, stage_process("teacher", code_digest("teacher")):
        raise error
    assert ended.value.code == code
    assert capsys.readouterr().err == line + "\n"
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("CUDA error: out of memory")])
def test_a_stage_without_memory_ends_with_a_line_that_watchers_know(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended, stage_process("distill", code_digest("distill")):
        raise error
    assert ended.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    told = refusal(line.removeprefix("[distill] "))
    assert type(told) is OutOfMemory
    assert "lower distill.batch_size" in str(told)


def test_libraries_in_a_key_leave_the_check_of_the_code_alone() -> None:
    with stage_process("real-stats", code_and_library_digest("real_stats")):
        pass


COMPONENTS = [
    each
    for stage in (
        "dataset",
        "real_stats",
        "teacher",
        "prune",
        "distill",
        "evaluate",
        "export",
        "report",
        "fetch",
        "sweep",
    )
    for each in vars(importlib.import_module(f"components.{stage}.component")).values()
    if isinstance(each, PythonComponent)
]


@pytest.mark.parametrize("component", COMPONENTS, ids=lambda component: component.name)
@pytest.mark.parametrize("digest", ["", "0123456789ab", "0123456789ab+0123456789ab"])
def test_a_task_is_refused_when_the_image_holds_other_code(
    component: PythonComponent, digest: str, capsys: pytest.CaptureFixture[str]
) -> None:
    function = component.python_func
    given = dict.fromkeys(inspect.signature(function).parameters)
    with pytest.raises(SystemExit) as ended:
        function(**{**given, "code_digest": digest})
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.match(
        r"\[[a-z-]+\] ERROR: The code of stage [a-z-]+ is [0-9a-f]{12} here, but the run was compiled", line
    )
    assert "build and push the image" in line


def test_there_are_eleven_components() -> None:
    assert len(COMPONENTS) == 11
