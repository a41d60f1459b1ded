"""A teacher that starts with the weights of an earlier one: all families, artifacts and files, and what is refused."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from components.catlib.artifacts import Manifest, read_manifest
from components.catlib.config import TeacherConfig, validate
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import read_architectures
from components.catlib.training.origin import Origin
from tests.components.opened import read_discriminator, read_generator
from tests.components.small_trainings import (
    assert_same_weights,
    make_dataset,
    make_teacher,
    teacher_config,
    weights,
)

DATA = {"pix2pix": "paired", "cyclegan": "unpaired", "spade": "labels"}
FAMILIES = list(DATA)
BRIEF: dict[str, Any] = {"epochs": 1, "decay_epochs": 0, "evaluations": 0}
UNCHANGED: dict[str, Any] = {"epochs": 0, "decay_epochs": 0}


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A dataset per family, with an earlier teacher in `teacher`, and its networks as files."""
    made = {}
    for family in FAMILIES:
        data = make_dataset(tmp_path_factory.mktemp(family), DATA[family])  # type: ignore[arg-type]
        make_teacher(data, data / "teacher", teacher_config(family, **BRIEF))  # type: ignore[arg-type]
        torch.save(read_generator(data / "teacher", "source_to_target").state_dict(), data / "generator.pth")
        torch.save(read_discriminator(data / "teacher", "target").state_dict(), data / "discriminator.pth")
        made[family] = data
    return made


def config(family: Any, start: Any, **settings: Any) -> TeacherConfig:
    return teacher_config(family, **({"start_from": start and str(start)} | settings))


@pytest.mark.parametrize("family", FAMILIES)
def test_every_network_of_an_artifact_is_taken_over_and_recorded(family: str, earlier: Any, tmp_path: Path):
    data = earlier[family]
    made = make_teacher(data, tmp_path / "t", config(family, data / "teacher", seed=7, **UNCHANGED))
    assert_same_weights(made, data / "teacher")
    manifest, digest = read_manifest(made), read_manifest(data / "teacher").digest()
    assert manifest.config["start_from"] == {"uri": str(data / "teacher"), "sha256": digest}
    assert manifest.inputs["start_from"] == digest


def test_training_goes_on_from_there(earlier: Any, tmp_path: Path):
    data = earlier["cyclegan"]
    made = make_teacher(data, tmp_path / "t", config("cyclegan", data / "teacher", learning_rate=1e-9, **BRIEF))
    before, after = weights(data / "teacher"), weights(made)
    trained = [name for name in before if name.endswith("weight")]
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in trained)
    assert any(not torch.equal(before[name], after[name]) for name in trained)


def test_a_published_file_gives_the_generator(earlier: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture):
    data = earlier["pix2pix"]
    made = make_teacher(data, tmp_path / "t", config("pix2pix", data / "generator.pth", seed=7, **UNCHANGED))
    ours, theirs = weights(made), weights(data / "teacher")
    equal = {name: torch.equal(tensor, theirs[name]) for name, tensor in ours.items()}
    assert all(same for name, same in equal.items() if name.startswith("generator"))
    assert not all(same for name, same in equal.items() if name.startswith("discriminator"))
    assert f"{data}/generator.pth holds no discriminator of target images: a fresh one is used" in caplog.text
    assert re.fullmatch("[0-9a-f]{64}", read_manifest(made).inputs["start_from"])


def test_images_of_another_size_and_other_dropout_fit(earlier: Any, tmp_path: Path):
    data = make_dataset(tmp_path, "labels", crop_size=64, load_size=64)
    generator = teacher_config("spade").generator.model_dump() | {"dropout": 0.5}
    start = earlier["spade"] / "teacher"
    made = make_teacher(data, tmp_path / "t", config("spade", start, generator=generator, **UNCHANGED))
    assert_same_weights(made, start)
    architecture: Any = read_architectures(made).generator("source_to_target")  # type: ignore[arg-type]
    assert (architecture.crop_width, architecture.dropout) == (64, 0.5)


@pytest.mark.parametrize(
    ("start", "setting", "value", "there", "here"),
    [
        ("teacher", "generator.base_channels", 8, "4", "8"),
        ("generator.pth", "generator.base_channels", 8, "4", "8"),
        ("teacher", "generator.num_blocks", 2, "3", "2"),
        ("generator.pth", "generator.num_blocks", 2, "3", "2"),
        ("teacher", "generator.kernel_sizes", [1, 3, 5], "[1,3]", "[1,3,5]"),
        ("generator.pth", "generator.kernel_sizes", [1, 3, 5], "[1,3]", "[1,3,5]"),
        ("teacher", "generator.padding", "zero", "reflect", "zero"),
        ("teacher", "discriminator.num_layers", 2, "1", "2"),
        ("teacher", "discriminator.base_channels", 8, "4", "8"),
    ],
)
def test_another_architecture_is_refused_naming_both(
    start: str, setting: str, value: Any, there: str, here: str, earlier: Any, tmp_path: Path
):
    data, (role, name) = earlier["pix2pix"], setting.split(".")
    section = getattr(teacher_config("pix2pix"), role).model_dump(mode="json") | {name: value}
    with pytest.raises(UserError) as refused:
        make_teacher(data, tmp_path / "t", config("pix2pix", data / start, **{role: section}, **UNCHANGED))
    assert str(refused.value) == (
        f"teacher.start_from {data / start} holds a {role} with {name} {there}, but teacher.{role} describes one with "
        f"{name} {here}; set teacher.{role}.{name}={there}, or leave teacher.start_from out."
    )


def test_the_advice_gets_past_the_refusal(earlier: Any, tmp_path: Path):
    data = earlier["spade"]
    other = {"base_channels": 4, "spade_hidden_channels": 24, "num_upsampling_layers": "normal", "spade_norm": "batch"}
    with pytest.raises(UserError) as refused:
        make_teacher(data, tmp_path / "t", config("spade", data / "teacher", generator=other, **UNCHANGED))
    changed: dict[str, Any] = {**other, "norm": {}}
    for path, value in re.findall(r"set teacher\.generator\.([\w.]+)=(\S+?)(?:,|;| and)", str(refused.value)):
        place, _, leaf = path.rpartition(".")
        (changed[place] if place else changed)[leaf] = value
    made = make_teacher(data, tmp_path / "t", config("spade", data / "teacher", generator=changed, **UNCHANGED))
    assert_same_weights(made, data / "teacher")


def test_what_does_not_fit_the_data_or_the_family_is_refused(earlier: Any, tmp_path: Path):
    labels = make_dataset(tmp_path / "five", "labels", num_labels=5)
    with pytest.raises(UserError, match=r"with semantic_channels 5, but the dataset asks for semantic_channels 6"):
        make_teacher(labels, tmp_path / "t", config("spade", earlier["spade"] / "teacher", **UNCHANGED))
    paired = earlier["pix2pix"]
    with pytest.raises(UserError, match=r"is a teacher of family cyclegan, but teacher.family is pix2pix; set"):
        make_teacher(paired, tmp_path / "t", config("pix2pix", earlier["cyclegan"] / "teacher", **UNCHANGED))
    with pytest.raises(UserError, match="is not a generator"):
        make_teacher(paired, tmp_path / "t", config("pix2pix", paired / "discriminator.pth", **UNCHANGED))
    with pytest.raises(UserError, match="dataset"):
        make_teacher(paired, tmp_path / "t", config("pix2pix", paired / "dataset", **UNCHANGED))


def test_another_content_than_the_pinned_one_is_refused(earlier: Any, tmp_path: Path):
    data = earlier["pix2pix"]
    for name, sentence in (("teacher", "has the digest"), ("generator.pth", "has the SHA-256")):
        start = {"uri": str(data / name), "sha256": "0" * 64}
        with pytest.raises(UserError, match=f"{sentence} .* expected"):
            make_teacher(data, tmp_path / "t", teacher_config("pix2pix", start_from=start, **UNCHANGED))


def test_two_starts_and_no_start_are_refused():
    with pytest.raises(UserError, match="leave out one of the two"):
        config("pix2pix", "a", published={"generator": {"uri": "b.pth"}})
    with pytest.raises(UserError, match="nothing is trained"):
        config("pix2pix", None, **UNCHANGED)


def test_only_a_start_counts_among_what_determines_the_weights():
    inputs = {"dataset": Manifest(kind="dataset", code_digest="", config={}, inputs={}, summary={}, files={})}

    def digest(start: Any) -> str:
        return Origin("teacher", config("pix2pix", start), inputs).digest()

    section = validate(TeacherConfig, {"start_from": {"uri": "a", "sha256": "1" * 64}}, where="teacher")
    assert "start_from" not in Origin("teacher", config("pix2pix", None), inputs).as_json()["teacher"]
    assert Origin("teacher", section, inputs).as_json()["teacher"]["start_from"] == {"sha256": "1" * 64}
    assert digest(None) != digest("a")
