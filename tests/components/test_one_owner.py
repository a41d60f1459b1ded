"""Two commands that train the same thing in the same place, and one that trains what is finished already."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.catlib.artifacts import read_manifest
from components.catlib.config import TeacherConfig
from components.catlib.storage import Storage
from components.catlib.storage.leases import BEAT_SECONDS
from components.distill import stage as distill_stage
from tests.components.small_trainings import (
    Pairing,
    assert_same_weights,
    distill_config,
    make_dataset,
    make_student,
    make_teacher,
    teacher_config,
)
from tests.object_stores import SeaweedServer

MEASURED = {"seconds", "images_per_second"}
"""What differs between two runs of one training."""


def results(folder: Path) -> dict[str, Any]:
    """Returns all that an artifact holds but for measured times: TensorBoard's events, and when losses were logged."""
    manifest = read_manifest(folder)
    summary = dict(manifest.summary)
    summary["metrics"] = {name: value for name, value in summary["metrics"].items() if name not in MEASURED}
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    scores = [line for line in lines if "scores" in line]
    others = {
        name: record.sha256
        for name, record in manifest.files.items()
        if name != "log.jsonl" and not name.startswith("tensorboard/")
    }
    assert len([name for name in others if name.endswith(".safetensors")]) >= 2
    return {"summary": summary, "scores": scores, "config": manifest.config, "inputs": manifest.inputs, "files": others}


# ----------------------------------------------------------------------------------------------- two at the same time


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("data"), "paired")


CONFIG = teacher_config("pix2pix", epochs=8, decay_epochs=8, evaluations=4)


@pytest.fixture(scope="module")
def undisturbed(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the command of these tests makes when nothing happens."""
    folder = tmp_path_factory.mktemp("undisturbed")
    finished = subprocess.run(command(data, folder), capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return results(folder / "teacher")


def command(data: Path, folder: Path, *, place: str | None = None, config: TeacherConfig = CONFIG) -> list[str]:
    recipe = folder / "recipe.yaml"
    section = config.model_dump(mode="json")
    recipe.write_text(
        yaml.safe_dump({"name": "tiny", "description": "A test.", "budgets": ["0.5x"], "teacher": section})
    )
    return [
        *(sys.executable, "-m", "components", "teacher", "--recipe", str(recipe)),
        *("--dataset", str(data / "dataset"), "--real-stats", str(data / "real_stats")),
        *("--checkpoint", place or str(folder / "checkpoint"), "--output", str(folder / "teacher")),
    ]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that end with the test at the latest."""
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        if process.poll() is None:
            process.kill()
            process.communicate()


def start(started: list[subprocess.Popen[str]], words: list[str], **environment: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=os.environ | environment)
    started.append(process)
    return process


def wait_for_a_checkpoint(place: Path, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 300
    while not list(place.glob("step-*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_second_of_two_is_refused_and_the_first_is_not_disturbed(
    data: Path, undisturbed: dict[str, Any], tmp_path: Path, started: list[subprocess.Popen[str]]
):
    words = command(data, tmp_path)
    first = start(started, words)
    wait_for_a_checkpoint(tmp_path / "checkpoint", first)
    os.kill(first.pid, signal.SIGSTOP)  # so that it cannot end before the second one begins
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint").iterdir()}
    second = start(started, words)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 75, errors
    assert f"{tmp_path / 'checkpoint'} is in use by process {first.pid} on " in errors
    assert "Traceback" not in errors
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "checkpoint").iterdir()} == before
    os.kill(first.pid, signal.SIGCONT)
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 0, errors
    assert results(tmp_path / "teacher") == undisturbed
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "recipe.yaml", "teacher"]


def test_after_a_kill_the_same_command_resumes_at_once(
    data: Path, undisturbed: dict[str, Any], tmp_path: Path, started: list[subprocess.Popen[str]]
):
    words = command(data, tmp_path)
    first = start(started, words)
    wait_for_a_checkpoint(tmp_path / "checkpoint", first)
    first.kill()
    first.wait()
    second = start(started, words)
    _, errors = second.communicate(timeout=300)
    assert second.returncode == 0, errors
    assert "resumed from the checkpoint of step" in errors
    assert "waiting" not in errors
    assert results(tmp_path / "teacher") == undisturbed


def test_several_processes_are_refused_together(data: Path, tmp_path: Path, started: list[subprocess.Popen[str]]):
    """Only the first of them asks; the others hear of it."""
    words = command(data, tmp_path)
    first = start(started, words)
    wait_for_a_checkpoint(tmp_path / "checkpoint", first)
    os.kill(first.pid, signal.SIGSTOP)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    second = start(started, [words[0], *torchrun, *words[1:]], OMP_NUM_THREADS="1")
    _, errors = second.communicate(timeout=300)
    assert second.returncode != 0
    assert errors.count(f"is in use by process {first.pid} on ") >= 1
    assert "components/catlib" not in errors, "the only traceback is torchrun's own"
    assert len(list((tmp_path / "checkpoint").glob("owner-*.json"))) == 1


@pytest.mark.slow
def test_in_a_store_the_second_hears_the_first_and_follows_it_at_once(
    data: Path, tmp_path: Path, object_store: SeaweedServer, started: list[subprocess.Popen[str]]
):
    place = "s3://cat/one-owner"
    endless = teacher_config("pix2pix", epochs=20_000, decay_epochs=0, evaluations=4_000, keep="last")
    words, store = command(data, tmp_path, place=place, config=endless), Storage(object_store.environment)
    first = start(started, words, **object_store.environment)
    deadline = time.monotonic() + 300
    while not any(name.endswith(".json") and name.startswith("step-") for name in store.file_names(place)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = start(started, words, **object_store.environment)
    _, errors = second.communicate(timeout=300 + BEAT_SECONDS)
    assert second.returncode == 75, errors
    assert f"{place} is in use by process {first.pid} on " in errors
    first.terminate()
    _, errors = first.communicate(timeout=300)
    assert first.returncode == 75, errors
    third = start(started, words, **object_store.environment)
    assert third.stderr is not None
    lines = []
    for line in third.stderr:
        lines.append(line)
        if "resumed from the checkpoint of step" in line:
            break
    assert third.poll() is None, "".join(lines)
    assert not [line for line in lines if "waiting" in line]


# ------------------------------------------------------------------------------------------------- what is finished


PAIRINGS: dict[str, Pairing] = {"pix2pix": "paired", "cyclegan": "unpaired", "spade": "labels"}


@pytest.mark.parametrize(
    ("family", "keep"), [("pix2pix", "best"), ("pix2pix", "last"), ("cyclegan", "best"), ("spade", "best")]
)
def test_a_finished_teacher_is_written_again_without_training(
    family: Any, keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make_dataset(tmp_path, PAIRINGS[family])
    config = teacher_config(family, ema_decay=0.9, keep=keep)
    first = make_teacher(folder, tmp_path / "first", config, tmp_path / "checkpoint")
    _forbid_training(monkeypatch)
    again = make_teacher(folder, tmp_path / "again", config, tmp_path / "checkpoint")
    assert_same_weights(first, again)
    assert results(again) == results(first)
    assert read_manifest(again).summary == read_manifest(first).summary
    assert (again / "log.jsonl").read_bytes() == (first / "log.jsonl").read_bytes()


def _forbid_training(monkeypatch: pytest.MonkeyPatch) -> None:
    from components.catlib.data.batches import TrainingBatches

    def batch(*_: object) -> None:
        raise AssertionError("an image is read for training")

    monkeypatch.setattr(TrainingBatches, "batch", batch)


@pytest.mark.parametrize("keep", ["best", "last"])
def test_a_finished_student_is_written_again_without_training(
    keep: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make_dataset(tmp_path, "paired")
    short = teacher_config("pix2pix", epochs=1, decay_epochs=0, evaluations=0)
    teacher = make_teacher(folder, tmp_path / "teacher", short)
    student = make_student(teacher, tmp_path / "student")

    def distill(output: Path) -> Path:
        distill_stage.run(
            distill_config("pix2pix", keep=keep),
            teacher=teacher,
            student=student,
            dataset=folder / "dataset",
            real_stats=folder / "real_stats",
            output=output,
            checkpoint=str(tmp_path / "checkpoint"),
        )
        return output

    first = distill(tmp_path / "first")
    _forbid_training(monkeypatch)
    again = distill(tmp_path / "again")
    assert_same_weights(first, again)
    assert results(again) == results(first)


@pytest.mark.parametrize(
    "settings", [{"time_limit_seconds": 1e-9, "evaluations": 4}, {"patience": 1, "evaluations": 12}]
)
def test_a_training_that_ended_early_is_written_again_too(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = make_dataset(tmp_path, "paired")
    config = teacher_config("pix2pix", **settings)
    first = make_teacher(folder, tmp_path / "first", config, tmp_path / "checkpoint")
    assert read_manifest(first).summary["ended"] in ("time limit", "patience", "epochs")
    _forbid_training(monkeypatch)
    again = make_teacher(folder, tmp_path / "again", config, tmp_path / "checkpoint")
    assert read_manifest(again).summary == read_manifest(first).summary
    assert results(again) == results(first)
