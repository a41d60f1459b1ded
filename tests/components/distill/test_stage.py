import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from components.catlib.artifacts import read_manifest, verify_checksums
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import read_architectures
from components.distill import stage
from tests.components.opened import read_generator
from tests.components.small_trainings import (
    assert_same_weights,
    distill_config,
    make_dataset,
    make_student,
    make_teacher,
    teacher_config,
    weights,
)


class Inputs:
    """A dataset, a teacher that was hardly trained, and its student."""

    def __init__(self, folder: Path, family: Any, pairing: Any, **prune_settings: Any) -> None:
        self.family, self.data = family, make_dataset(folder, pairing)
        short = {"epochs": 1, "decay_epochs": 0, "evaluations": 0}
        self.teacher = make_teacher(self.data, folder / "teacher", teacher_config(family, **short))
        self.student = make_student(self.teacher, folder / "student", **prune_settings)

    def distill(self, output: Path, checkpoint: Path | None = None, **settings: Any) -> Path:
        stage.run(
            distill_config(self.family, **settings),
            teacher=self.teacher,
            student=self.student,
            dataset=self.data / "dataset",
            real_stats=self.data / "real_stats",
            output=output,
            checkpoint=None if checkpoint is None else str(checkpoint),
        )
        return output


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("paired"), "pix2pix", "paired")


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("unpaired"), "cyclegan", "unpaired", generator="target_to_source")


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> Inputs:
    return Inputs(tmp_path_factory.mktemp("labels"), "spade", "labels", budget="0.8x")


SHORT: dict[str, Any] = {"epochs": 1, "decay_epochs": 0, "evaluations": 1}


@pytest.mark.parametrize(
    ("data", "direction", "rows", "layers"),
    [
        ("paired", "source_to_target", ["source", "target", "source_to_target"], 4),
        ("unpaired", "target_to_source", ["target", "target_to_source"], 4),
        ("labels", "source_to_target", ["source", "target", "source_to_target"], 3),
    ],
)
def test_a_student_of_every_family(
    request: pytest.FixtureRequest, tmp_path: Path, data: str, direction: Any, rows: list[str], layers: int
):
    inputs: Inputs = request.getfixturevalue(data)
    distilled = inputs.distill(tmp_path / "distilled", **SHORT)
    manifest = read_manifest(distilled, "distill")
    verify_checksums(distilled, manifest)
    assert set(manifest.inputs) == {"teacher", "student", "dataset", "real_stats"}
    architectures = read_architectures(distilled)
    assert list(architectures.generators) == [direction]
    assert architectures.generators == read_architectures(inputs.student).generators
    assert list(architectures.discriminators) == [direction.rpartition("_to_")[2]]
    assert manifest.summary["sample_rows"] == rows
    assert list(manifest.summary["kept"]) == [direction]
    assert len(manifest.summary["misalignment"]) == layers
    assert all(0 <= value <= 1 for value in manifest.summary["misalignment"].values())
    assert manifest.summary["metrics"]["frechet_random_features"] > 0
    student = read_generator(distilled, direction)
    images = torch.zeros(1, student.architecture.in_channels, *architectures.input_size)
    assert student(images).shape == (1, 3, *architectures.input_size)


def test_the_teacher_stays_as_it_is(paired: Inputs, tmp_path: Path):
    before = weights(paired.teacher)
    paired.distill(tmp_path / "distilled", **SHORT)
    after = weights(paired.teacher)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_one_seed_gives_one_student(paired: Inputs, tmp_path: Path):
    first = paired.distill(tmp_path / "first", **SHORT)
    assert_same_weights(first, paired.distill(tmp_path / "second", **SHORT))


@pytest.mark.parametrize("settings", [{}, {"distiller": "mse"}])
def test_a_resumed_distillation_is_the_uninterrupted_one(
    paired: Inputs, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
):
    from components.catlib.data.batches import TrainingBatches

    class Kill(BaseException):
        pass

    batch = TrainingBatches.batch

    def dying(self: TrainingBatches, step: int, rows: slice) -> Any:
        if step == 5:
            raise Kill
        return batch(self, step, rows)

    settings = settings | {"epochs": 1, "decay_epochs": 1}
    whole = paired.distill(tmp_path / "whole", **settings)
    with monkeypatch.context() as patched, pytest.raises(Kill):
        patched.setattr(TrainingBatches, "batch", dying)
        paired.distill(tmp_path / "resumed", tmp_path / "checkpoint", **settings)
    assert_same_weights(whole, paired.distill(tmp_path / "resumed", tmp_path / "checkpoint", **settings))


def test_inherited_weights_are_where_a_student_starts(paired: Inputs, tmp_path: Path):
    """With a learning rate next to nothing the student stays what it was when it was cut."""
    student = make_student(paired.teacher, tmp_path / "student", student_init="inherit")
    inherited = weights(student)
    stage.run(
        distill_config("pix2pix", **SHORT, learning_rate=1e-12),
        teacher=paired.teacher,
        student=student,
        dataset=paired.data / "dataset",
        real_stats=paired.data / "real_stats",
        output=tmp_path / "distilled",
    )
    distilled = weights(tmp_path / "distilled")
    assert inherited
    for name, tensor in inherited.items():
        assert torch.allclose(distilled[name].float(), tensor.float(), atol=1e-9), name


def test_losses_of_every_layer_are_logged(paired: Inputs, tmp_path: Path):
    distilled = paired.distill(tmp_path / "distilled", **SHORT)
    losses = [json.loads(line).get("losses", {}) for line in (distilled / "log.jsonl").read_text().splitlines()]
    layers = read_manifest(distilled).summary["misalignment"]
    assert {f"misalignment_{layer}" for layer in layers} < set(losses[0])


def test_a_dataset_of_another_size_is_refused(paired: Inputs, tmp_path: Path):
    other = make_dataset(tmp_path, "paired", crop_size=20)
    with pytest.raises(UserError, match=r"made for images of 16x16 pixels, but .* crops of 20x20"):
        stage.run(
            distill_config("pix2pix"),
            teacher=paired.teacher,
            student=paired.student,
            dataset=other / "dataset",
            real_stats=other / "real_stats",
            output=tmp_path / "distilled",
        )


def test_a_dataset_of_another_kind_is_refused(paired: Inputs, unpaired: Inputs, tmp_path: Path):
    with pytest.raises(UserError, match=r"pix2pix is trained on paired images .* holds unpaired images"):
        stage.run(
            distill_config("pix2pix"),
            teacher=paired.teacher,
            student=paired.student,
            dataset=unpaired.data / "dataset",
            real_stats=unpaired.data / "real_stats",
            output=tmp_path / "distilled",
        )


def test_label_maps_with_other_classes_are_refused(labels: Inputs, tmp_path: Path):
    other = make_dataset(tmp_path, "labels", num_labels=5)
    with pytest.raises(UserError, match=r"source_to_target .* takes 5 channels, but .* has 6"):
        stage.run(
            distill_config("spade"),
            teacher=labels.teacher,
            student=labels.student,
            dataset=other / "dataset",
            real_stats=other / "real_stats",
            output=tmp_path / "distilled",
        )


def test_a_teacher_without_the_students_direction_is_refused(unpaired: Inputs, tmp_path: Path):
    teacher = make_teacher(
        unpaired.data, tmp_path / "teacher", teacher_config("cyclegan", **{**SHORT, "evaluations": 0})
    )
    path = teacher / "architecture.json"
    description = json.loads(path.read_text())
    del description["generators"]["target_to_source"]
    manifest = json.loads((teacher / "manifest.json").read_text())
    path.write_text(json.dumps(description))
    manifest["files"]["architecture.json"]["bytes"] = path.stat().st_size
    (teacher / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="no generator target_to_source"):
        stage.run(
            distill_config("cyclegan"),
            teacher=teacher,
            student=unpaired.student,
            dataset=unpaired.data / "dataset",
            real_stats=unpaired.data / "real_stats",
            output=tmp_path / "distilled",
        )


def test_a_student_of_another_teacher_is_told(paired: Inputs, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    settings = {**SHORT, "evaluations": 0, "seed": 5}
    other = make_teacher(paired.data, tmp_path / "other", teacher_config("pix2pix", **settings))
    with caplog.at_level(logging.WARNING):
        paired.distill(tmp_path / "own", **SHORT)
        assert "was cut from another teacher" not in caplog.text
        stage.run(
            distill_config("pix2pix", **SHORT),
            teacher=other,
            student=paired.student,
            dataset=paired.data / "dataset",
            real_stats=paired.data / "real_stats",
            output=tmp_path / "distilled",
        )
    assert "was cut from another teacher" in caplog.text


def test_a_batch_larger_than_the_training_images_is_refused(paired: Inputs, tmp_path: Path):
    with pytest.raises(UserError, match=r"batch_size 80 .* training images"):
        paired.distill(tmp_path / "distilled", batch_size=80)


def test_a_damaged_teacher_is_named(paired: Inputs, tmp_path: Path):
    teacher = shutil.copytree(paired.teacher, tmp_path / "teacher")
    (teacher / "generator_source_to_target.safetensors").write_bytes(b"")
    with pytest.raises(UserError, match=r"generator_source_to_target\.safetensors is missing or has the wrong size"):
        stage.run(
            distill_config("pix2pix"),
            teacher=teacher,
            student=paired.student,
            dataset=paired.data / "dataset",
            real_stats=paired.data / "real_stats",
            output=tmp_path / "distilled",
        )
