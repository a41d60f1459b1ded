"""Trainings that are killed for good, again and again, end with the weights of one that never was."""

import itertools
import multiprocessing
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.catlib.artifacts import read_manifest
from components.catlib.storage.leases import LEASE_SECONDS
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
from tests.object_stores import SeaweedServer, seaweed_server

PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["tests.components.small_trainings", "components.distill.stage"])

LENGTH: dict[str, Any] = {"epochs": 3, "decay_epochs": 3, "evaluations": 2, "checkpoint_seconds": 1e-9}
KILLS = 4

Training = Callable[[Path, str | None], None]
"""Runs a stage, given the output folder and the place of checkpoints."""


class Teacher:
    def __init__(self, folder: Path, family: Any, pairing: Pairing) -> None:
        self.data = make_dataset(folder, pairing)
        self.config = teacher_config(family, ema_decay=0.9, **LENGTH)

    def __call__(self, output: Path, checkpoint: str | None) -> None:
        make_teacher(self.data, output, self.config, checkpoint)


class Distillation:
    def __init__(self, folder: Path) -> None:
        self.data = make_dataset(folder, "paired")
        short = {"epochs": 1, "decay_epochs": 0, "evaluations": 0}
        self.teacher = make_teacher(self.data, folder / "teacher", teacher_config("pix2pix", **short))
        self.student = make_student(self.teacher, folder / "student")

    def __call__(self, output: Path, checkpoint: str | None) -> None:
        distill_stage.run(
            distill_config("pix2pix", **LENGTH),
            teacher=self.teacher,
            student=self.student,
            dataset=self.data / "dataset",
            real_stats=self.data / "real_stats",
            output=output,
            checkpoint=checkpoint,
        )


def in_process(training: Training, output: Path, checkpoint: str, environment: dict[str, str] | None = None) -> Any:
    """Starts the training in a process of its own."""
    process = PROCESSES.Process(target=_train, args=(training, output, checkpoint, environment or {}))
    process.start()
    return process


def _train(training: Training, output: Path, checkpoint: str, environment: dict[str, str]) -> None:
    import os

    import torch

    torch.set_num_threads(1)
    os.environ |= environment
    training(output, checkpoint)


@pytest.fixture(scope="module", params=["pix2pix", "cyclegan", "spade", "distill"])
def training(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Training, Path, float]:
    """A training, the artifact that it makes when nothing happens, and the seconds that takes."""
    folder = tmp_path_factory.mktemp(request.param)
    pairings: dict[str, Pairing] = {"pix2pix": "paired", "cyclegan": "unpaired", "spade": "labels"}
    made = (
        Distillation(folder) if request.param == "distill" else Teacher(folder, request.param, pairings[request.param])
    )
    began = time.monotonic()
    made(folder / "whole", str(folder / "checkpoint"))
    return made, folder / "whole", time.monotonic() - began


@pytest.mark.slow
def test_killed_again_and_again(training: tuple[Training, Path, float], tmp_path: Path):
    """Every other time in the middle of writing a checkpoint, else at any moment."""
    train, whole, seconds = training
    output, checkpoint = tmp_path / "output", tmp_path / "checkpoint"
    moments: list[float | str] = []
    for number in itertools.count():
        process = in_process(train, output, str(checkpoint))
        if number < KILLS:
            moments.append("write" if number % 2 else random.SystemRandom().uniform(0, 2 * seconds / KILLS))
            _wait_for(moments[-1], checkpoint, process)
            process.kill()
        process.join(60)
        if output.exists():
            break
        assert number < KILLS, (process.exitcode, moments)
    assert_same_weights(whole, output)
    assert read_manifest(whole).summary["kept"] == read_manifest(output).summary["kept"], moments


def _wait_for(moment: float | str, checkpoint: Path, process: Any) -> None:
    """Waits some seconds, or until a checkpoint is being written."""
    if isinstance(moment, float):
        time.sleep(moment)
        return
    deadline = time.monotonic() + 60
    time.sleep(random.SystemRandom().uniform(0, 0.1))
    while not list(checkpoint.glob(".step-*.partial")) and process.is_alive():
        assert time.monotonic() < deadline


@pytest.mark.slow
def test_a_store_that_is_killed_and_a_trainer_that_is_killed(tmp_path: Path):
    """The S3 server goes away under a training and comes back; then the training is killed; then it goes on."""
    train = Teacher(tmp_path / "data", "pix2pix", "paired")
    train.config = train.config.model_copy(update={"epochs": 40})
    train(tmp_path / "whole", None)
    with seaweed_server(tmp_path / "store") as server:
        _make_bucket(server)
        process = in_process(train, tmp_path / "output", "s3://cat/state", server.environment)
        _wait_for_steps(server, 5, process)
        server.stop()
        time.sleep(1.0)
        assert process.is_alive()
        server.start()
        _wait_for_steps(server, 20, process)
        process.kill()
        process.join(60)
        assert not (tmp_path / "output").exists()
        process = in_process(train, tmp_path / "output", "s3://cat/state", server.environment)
        process.join(120 + LEASE_SECONDS)  # nobody can tell that the owner is dead before it was silent for a while
        assert process.exitcode == 0
        steps = {name.partition(".")[0] for name in _names(server) if name.startswith("step-")}
    assert_same_weights(tmp_path / "whole", tmp_path / "output")
    assert "step-000000129" in steps
    assert len(steps) <= 3


def _make_bucket(server: SeaweedServer) -> None:
    from components.catlib.storage import Storage

    Storage(server.environment).make_bucket("s3://cat")


def _names(server: SeaweedServer) -> list[str]:
    from components.catlib.storage import Storage

    return Storage(server.environment).file_names("s3://cat/state")


def _wait_for_steps(server: SeaweedServer, step: int, process: Any) -> None:
    deadline = time.monotonic() + 60
    while not any(
        name.startswith("step-") and name.endswith(".json") and int(name[5:14]) >= step for name in _names(server)
    ):
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
