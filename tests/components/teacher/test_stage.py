import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from components.catlib.artifacts import read_manifest, verify_checksums
from components.catlib.config import DatasetConfig, PublishedConfig, TeacherConfig, WeightsConfig, validate
from components.catlib.data.batches import Batch
from components.catlib.errors import Interrupted, OutOfMemory, UserError
from components.catlib.networks.architecture_files import read_architectures
from components.catlib.objectives.pix2pix import Pix2PixObjective
from components.dataset import stage as dataset_stage
from tests.components.opened import read_discriminator, read_generator
from tests.components.small_trainings import (
    Pairing,
    assert_same_weights,
    make_dataset,
    make_teacher,
    teacher_config,
    weights,
)


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("paired"), "paired")


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("unpaired"), "unpaired")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_dataset(tmp_path_factory.mktemp("labels"), "labels")


def lines(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("family", "data", "rows", "scores"),
    [
        ("pix2pix", "paired", ["source", "target", "source_to_target"], ["l1", "psnr", "ssim"]),
        ("cyclegan", "unpaired", ["source", "target", "source_to_target", "target_to_source"], []),
        ("spade", "labels", ["source", "target", "source_to_target"], ["l1", "psnr", "ssim"]),
    ],
)
def test_every_family_becomes_an_artifact(
    request: pytest.FixtureRequest, tmp_path: Path, family: Any, data: str, rows: list[str], scores: list[str]
):
    folder = request.getfixturevalue(data)
    config = teacher_config(family, epochs=1, decay_epochs=0)
    teacher = make_teacher(folder, tmp_path / "teacher", config)
    manifest = read_manifest(teacher, "teacher")
    verify_checksums(teacher, manifest)
    assert manifest.config == config.model_dump(mode="json")
    assert set(manifest.inputs) == {"dataset", "real_stats"}
    metrics = manifest.summary["metrics"]
    of_all = {"frechet_random_features", "gradient_energy_ratio"}
    assert set(metrics) == {"steps", "seconds", "images_per_second", *scores, *of_all}
    assert metrics["steps"] == 3
    assert manifest.summary["sample_rows"] == rows
    directions = rows[2:]
    assert list(manifest.summary["kept"]) == directions
    architectures = read_architectures(teacher)
    side = 32 if family == "spade" else 16
    assert architectures.input_size == (side, side)
    for direction in directions:
        read_generator(teacher, direction)  # type: ignore[arg-type]
        read_discriminator(teacher, direction.rpartition("_to_")[2])  # type: ignore[arg-type]
    assert len(weights(teacher)) > 20
    pictures = sorted(teacher.glob("samples_*.webp"))
    assert [path.name for path in pictures] == ["samples_0000002.webp", "samples_0000003.webp"]
    assert Image.open(io.BytesIO(pictures[0].read_bytes())).size == (3 * side, len(rows) * side)
    assert [line["step"] for line in lines(teacher) if "scores" in line] == [2, 3]
    assert list((teacher / "tensorboard").iterdir())


@pytest.mark.parametrize(("family", "data"), [("pix2pix", "paired"), ("cyclegan", "unpaired"), ("spade", "labels")])
def test_one_seed_gives_one_teacher(request: pytest.FixtureRequest, tmp_path: Path, family: Any, data: str):
    folder = request.getfixturevalue(data)
    settings = {"epochs": 1, "decay_epochs": 0, "evaluations": 1, "generator": teacher_config(family).generator}
    config = teacher_config(family, **settings)
    make_teacher(folder, tmp_path / "first", config)
    make_teacher(folder, tmp_path / "second", config)
    assert_same_weights(tmp_path / "first", tmp_path / "second")
    other = make_teacher(folder, tmp_path / "other", teacher_config(family, **settings, seed=1))
    with pytest.raises(AssertionError):
        assert_same_weights(tmp_path / "first", other)


def test_training_lowers_the_reconstruction_loss(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Targets are the inverted sources, so even a tiny generator soon does better than at the start."""
    monkeypatch.setenv("CAT_LOG_SECONDS", "1e-9")
    config = teacher_config("pix2pix", epochs=15, decay_epochs=5, learning_rate=0.005, evaluations=0)
    teacher = make_teacher(paired, tmp_path / "teacher", config)
    losses = [line["losses"]["reconstruction"] for line in lines(teacher) if "losses" in line]
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])
    assert set(read_manifest(teacher).summary["metrics"]) == {"steps", "seconds", "images_per_second"}


class _Kill(BaseException):
    pass


def _raise_after(monkeypatch: pytest.MonkeyPatch, calls: int) -> None:
    """Makes the next training fail in the middle of one of its steps."""
    from components.catlib.data.batches import TrainingBatches

    batch = TrainingBatches.batch

    def dying(self: TrainingBatches, step: int, rows: slice) -> Any:
        if step == calls:
            raise _Kill
        return batch(self, step, rows)

    monkeypatch.setattr(TrainingBatches, "batch", dying)


@pytest.mark.parametrize(("family", "data"), [("cyclegan", "unpaired"), ("spade", "labels")])
def test_a_resumed_teacher_is_the_uninterrupted_one(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: Any, data: str
):
    """CycleGAN's image pools (3 images) are full by then; SPADE has power iterations and two learning rates."""
    folder = request.getfixturevalue(data)
    config = teacher_config(family, epochs=1, decay_epochs=1)
    whole = make_teacher(folder, tmp_path / "whole", config)
    with monkeypatch.context() as patched, pytest.raises(_Kill):
        _raise_after(patched, 5)
        make_teacher(folder, tmp_path / "killed", config, tmp_path / "checkpoint")
    assert not (tmp_path / "killed").exists()
    assert not list(tmp_path.glob("*.partial"))
    resumed = make_teacher(folder, tmp_path / "resumed", config, tmp_path / "checkpoint")
    assert_same_weights(whole, resumed)
    assert read_manifest(whole).summary["kept"] == read_manifest(resumed).summary["kept"]


def _command(paired: Path, config: TeacherConfig, folder: Path) -> list[str]:
    recipe = folder / "recipe.yaml"
    section = config.model_dump(mode="json")
    recipe.write_text(
        yaml.safe_dump({"name": "tiny", "description": "A test.", "budgets": ["0.5x"], "teacher": section})
    )
    return [
        *(sys.executable, "-m", "components", "teacher", "--recipe", str(recipe)),
        *("--dataset", str(paired / "dataset"), "--real-stats", str(paired / "real_stats")),
        *("--checkpoint", str(folder / "checkpoint"), "--output", str(folder / "teacher")),
    ]


def _signal_after_a_checkpoint(command: list[str], checkpoint: Path, signal_number: int) -> tuple[int, str]:
    """Starts a process, sends it a signal once a few checkpoints were written, and returns how it ended."""
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not any(int(path.name[5:14]) >= 4 for path in checkpoint.glob("step-*.json")):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    os.kill(process.pid, signal_number)
    return process.wait(60), process.communicate()[1]


def test_a_process_killed_for_good_resumes_bit_by_bit(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAT_CHECKPOINT_SECONDS", "1e-9")
    config = teacher_config("pix2pix", epochs=10, decay_epochs=10)
    whole = make_teacher(paired, tmp_path / "whole", config)
    command = _command(paired, config, tmp_path)
    code, _ = _signal_after_a_checkpoint(command, tmp_path / "checkpoint", signal.SIGKILL)
    assert code == -signal.SIGKILL
    assert not (tmp_path / "teacher").exists()
    newest = sorted((tmp_path / "checkpoint").glob("step-*.json"))[-1]
    assert 4 <= int(newest.name[5:14]) < 60
    monkeypatch.setenv("CAT_CHECKPOINT_SECONDS", "100")
    resumed = make_teacher(paired, tmp_path / "teacher", config, tmp_path / "checkpoint")
    assert_same_weights(whole, resumed)


def test_a_process_asked_to_stop_ends_with_75(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CAT_CHECKPOINT_SECONDS", "0.05")
    config = teacher_config("pix2pix", epochs=200, decay_epochs=0, evaluations=0)
    command = _command(paired, config, tmp_path)
    code, errors = _signal_after_a_checkpoint(command, tmp_path / "checkpoint", signal.SIGTERM)
    assert code == 75
    assert "run the same command again to resume" in errors
    assert "Traceback" not in errors
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint", "recipe.yaml"]


def test_a_checkpoint_of_other_settings_or_data_is_refused(
    paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("CAT_CHECKPOINT_SECONDS", "1e-9")
    config = teacher_config("pix2pix")
    with monkeypatch.context() as patched, pytest.raises(_Kill):
        _raise_after(patched, 2)
        make_teacher(paired, tmp_path / "teacher", config, tmp_path / "checkpoint")

    def again(data: Path, **settings: Any) -> None:
        make_teacher(data, tmp_path / "teacher", teacher_config("pix2pix", **settings), tmp_path / "checkpoint")

    with pytest.raises(UserError, match=r"teacher\.batch_size is 2 there and 3 here"):
        again(paired, batch_size=3)
    other = make_dataset(tmp_path / "other", "paired", max_images=5)
    with pytest.raises(UserError, match=r"inputs\.dataset is "):
        again(other)
    again(paired, patience=0, time_limit_seconds=1000.0)
    assert read_manifest(tmp_path / "teacher", "teacher").summary["metrics"]["steps"] == 12


@pytest.mark.parametrize(
    ("family", "data", "message"),
    [
        ("pix2pix", "unpaired", "pix2pix is trained on paired images or label maps, but .* unpaired.* cyclegan"),
        ("cyclegan", "paired", "cyclegan is trained on unpaired images, but .* paired images; .* use .* pix2pix"),
        (
            "spade",
            "paired",
            "spade is trained on label maps, but .* paired images; set dataset.num_labels if .* use .* pix2pix",
        ),
        (
            "cyclegan",
            "labels",
            r"cyclegan is trained on unpaired images, but .* label maps; use teacher\.family pix2pix \(as the recipe "
            r"demo does\) or spade \(as",
        ),
    ],
)
def test_a_family_that_does_not_fit_the_data_is_refused(
    request: pytest.FixtureRequest, tmp_path: Path, family: Any, data: Pairing, message: str
):
    with pytest.raises(UserError, match=message):
        make_teacher(request.getfixturevalue(data), tmp_path / "teacher", teacher_config(family))
    assert not (tmp_path / "teacher").exists()


def test_a_batch_larger_than_the_training_images_is_refused(paired: Path, tmp_path: Path):
    with pytest.raises(UserError, match=r"batch_size 7 is larger than .* training images"):
        make_teacher(paired, tmp_path / "teacher", teacher_config("pix2pix", batch_size=7))


@pytest.mark.parametrize(
    ("crop_size", "num_layers", "message"),
    [
        ((16, 14), 1, "16x14 pixels.* multiples of 4"),
        ((16, 16), 3, "too small for a PatchGAN of 3 layers.* at least 24"),
    ],
)
def test_crops_that_do_not_fit_the_networks_are_refused(
    tmp_path: Path, crop_size: tuple[int, int], num_layers: int, message: str
):
    data = make_dataset(tmp_path, "paired", crop_size=crop_size)
    config = teacher_config("pix2pix", discriminator={"base_channels": 4, "num_layers": num_layers})
    with pytest.raises(UserError, match=message):
        make_teacher(data, tmp_path / "teacher", config)


def test_the_smallest_crop_named_for_a_patch_discriminator_is_enough(tmp_path: Path):
    data = make_dataset(tmp_path, "paired", load_size=24, crop_size=24)
    config = teacher_config(
        "pix2pix", epochs=1, decay_epochs=0, evaluations=0, discriminator={"base_channels": 4, "num_layers": 3}
    )
    assert read_manifest(make_teacher(data, tmp_path / "teacher", config)).summary["metrics"]["steps"] == 3


def test_too_few_held_out_images_are_noticed_before_training(paired: Path, tmp_path: Path):
    settings = {"layout": "parallel", "load_size": 16, "crop_size": 16, "max_images": 1}
    dataset_stage.run(
        DatasetConfig.model_validate({"source": str(paired / "images"), **settings}), output=tmp_path / "dataset"
    )
    shutil.copytree(paired / "real_stats", tmp_path / "real_stats")
    with pytest.raises(UserError, match=r"1 held-out source images.*set dataset\.max_images to 2"):
        make_teacher(tmp_path, tmp_path / "teacher", teacher_config("pix2pix", batch_size=1))
    assert make_teacher(tmp_path, tmp_path / "teacher", teacher_config("pix2pix", batch_size=1, evaluations=0))


def test_no_epochs_need_published_weights(tmp_path: Path):
    with pytest.raises(UserError, match="epochs and decay_epochs are both 0"):
        validate(TeacherConfig, {"epochs": 0, "decay_epochs": 0}, where="teacher")


def test_without_epochs_published_networks_are_written_as_they_are(paired: Path, tmp_path: Path):
    config = teacher_config("pix2pix", epochs=1, decay_epochs=0, evaluations=0)
    trained = make_teacher(paired, tmp_path / "trained", config)
    published = {}
    for role, network in {
        "generator": read_generator(trained, "source_to_target"),
        "discriminator": read_discriminator(trained, "target"),
    }.items():
        torch.save(network.state_dict(), tmp_path / f"{role}.pth")
        published[role] = WeightsConfig(uri=str(tmp_path / f"{role}.pth"), sha256=None)
    settings = {"published": PublishedConfig(**published).model_dump(mode="json"), "epochs": 0, "decay_epochs": 0}
    taken = make_teacher(paired, tmp_path / "taken", teacher_config("pix2pix", **settings))
    assert_same_weights(trained, taken)
    manifest = read_manifest(taken, "teacher")
    assert manifest.summary["metrics"] == {"steps": 0, "seconds": 0.0}
    assert not (taken / "log.jsonl").exists()


def test_a_stopped_stage_leaves_no_artifact(paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from components.catlib.data.batches import TrainingBatches

    batch = TrainingBatches.batch

    def terminating(self: TrainingBatches, step: int, rows: slice) -> Any:
        if step == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch(self, step, rows)

    config = teacher_config("pix2pix")
    with monkeypatch.context() as patched, pytest.raises(Interrupted):
        patched.setattr(TrainingBatches, "batch", terminating)
        make_teacher(paired, tmp_path / "teacher", config, tmp_path / "checkpoint")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint"]


def test_a_training_that_runs_out_of_memory_names_its_settings_and_goes_on_with_less(
    paired: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    """It says before what it needs; the place of its checkpoints does not depend on settings of memory."""
    usual, steps = Pix2PixObjective.step, iter(range(100))

    def step(objective: Pix2PixObjective, batch: Batch) -> dict[str, torch.Tensor]:
        if next(steps) == 8:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        return usual(objective, batch)

    caplog.set_level("INFO")
    with monkeypatch.context() as patched, pytest.raises(OutOfMemory) as told:
        patched.setattr(Pix2PixObjective, "step", step)
        config = teacher_config("pix2pix", precision="bf16")
        make_teacher(paired, tmp_path / "teacher", config, checkpoint=tmp_path / "checkpoints")
    assert str(told.value).endswith(
        "take an accelerator with more memory, or set teacher.recompute_activations: true or set "
        "teacher.images_per_pass below 2 or lower teacher.batch_size."
    )
    assert any(line.startswith("teacher needs about ") and "; cpu has " in line for line in caplog.messages)
    caplog.clear()
    less = config.model_copy(update={"recompute_activations": True, "images_per_pass": 1})
    make_teacher(paired, tmp_path / "teacher", less, checkpoint=tmp_path / "checkpoints")
    assert any("resum" in line for line in caplog.messages), caplog.messages
    assert lines(tmp_path / "teacher")[-1]["step"] == 12
