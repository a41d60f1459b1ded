"""The fetch stage for teachers: published generators become artifacts, and are held against the dataset."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.catlib.artifacts import read_manifest, verify_checksums
from components.catlib.config import PruneConfig
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import read_architectures
from components.catlib.storage import Storage
from components.distill import stage as distill_stage
from components.fetch.teacher import run
from tests.components.opened import read_discriminator, read_generator
from tests.components.small_trainings import (
    assert_same_weights,
    distill_config,
    make_dataset,
    make_student,
    make_teacher,
    teacher_config,
    weights,
)
from tests.object_stores import SeaweedServer

UNTRAINED = {"evaluations": 0, "epochs": 1, "decay_epochs": 0}


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset, and a teacher whose networks are published."""
    data = make_dataset(tmp_path_factory.mktemp("paired"), "paired")
    teacher = make_teacher(data, data / "teacher", teacher_config("pix2pix", **UNTRAINED))
    torch.save(read_generator(teacher, "source_to_target").state_dict(), data / "generator.pth")
    torch.save(read_discriminator(teacher, "target").state_dict(), data / "discriminator.pth")
    return data


def take_over(
    data: Path, address: str, output: Path, *, family: Any = "pix2pix", prune: Any = None, **given: Any
) -> Path:
    config = teacher_config(family, **given)
    run(address, config=config, prune=prune or PruneConfig(), dataset=data / "dataset", output=output)
    return output


def test_published_networks_become_the_teacher_that_they_were(paired: Path, tmp_path: Path) -> None:
    discriminator = {"uri": str(paired / "discriminator.pth")}
    taken = take_over(paired, f"{paired}/generator.pth", tmp_path / "t", published={"discriminator": discriminator})
    assert_same_weights(taken, paired / "teacher")
    assert read_architectures(taken) == read_architectures(paired / "teacher")
    manifest = read_manifest(taken, "teacher")
    verify_checksums(taken, manifest)
    assert manifest.config["published"]["generator"]["uri"] == f"{paired}/generator.pth"
    assert (manifest.config["epochs"], manifest.config["decay_epochs"]) == (0, 0)
    assert manifest.summary["metrics"] == {"steps": 0, "seconds": 0.0}


def test_without_its_discriminator_a_fresh_one_is_used_and_a_student_learns(
    paired: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    taken = take_over(paired, f"{paired}/generator.pth", tmp_path / "t")
    assert f"no published discriminator is given with {paired}/generator.pth" in caplog.text
    ours, theirs = weights(taken), weights(paired / "teacher")
    equal = {name: torch.equal(tensor, theirs[name]) for name, tensor in ours.items()}
    assert all(same for name, same in equal.items() if name.startswith("generator"))
    assert not all(same for name, same in equal.items() if name.startswith("discriminator"))
    student = make_student(taken, tmp_path / "s")
    distill_stage.run(
        distill_config("pix2pix", **UNTRAINED),
        teacher=taken,
        student=student,
        dataset=paired / "dataset",
        real_stats=paired / "real_stats",
        output=tmp_path / "d",
    )
    assert read_manifest(tmp_path / "d", "distill").summary["metrics"]["steps"] == 3


def test_the_pruned_direction_is_what_the_file_holds(tmp_path: Path) -> None:
    data = make_dataset(tmp_path, "unpaired")
    trained = make_teacher(data, data / "teacher", teacher_config("cyclegan", **UNTRAINED))
    torch.save(read_generator(trained, "target_to_source").state_dict(), data / "back.pth")
    torch.save(read_discriminator(trained, "source").state_dict(), data / "judge.pth")
    published = {"discriminator_backward": {"uri": f"{data}/judge.pth"}}
    prune = PruneConfig(generator="target_to_source")
    taken = take_over(data, f"{data}/back.pth", data / "t", family="cyclegan", prune=prune, published=published)
    assert set(read_architectures(taken).generators) == {"target_to_source"}
    assert set(read_architectures(taken).discriminators) == {"source"}
    theirs = weights(trained)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in weights(taken).items())


def test_a_published_file_comes_from_the_store_and_an_artifact_stays_as_it_is(
    paired: Path, tmp_path: Path, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in object_store.environment.items():
        monkeypatch.setenv(name, value)
    Storage().upload_file(paired / "generator.pth", "s3://cat/published/generator.pth")
    taken = take_over(paired, "s3://cat/published/generator.pth", tmp_path / "t")
    assert_same_weights(taken, take_over(paired, f"{paired}/generator.pth", tmp_path / "local"))
    Storage().publish(paired / "teacher", "s3://cat/published/teacher")
    fetched = take_over(paired, "s3://cat/published/teacher", tmp_path / "a")
    assert read_manifest(fetched).digest() == read_manifest(paired / "teacher").digest()


def test_what_does_not_fit_is_refused(paired: Path, tmp_path: Path) -> None:
    output = tmp_path / "t"
    with pytest.raises(UserError, match=r"missing\.pth"):
        take_over(paired, f"{tmp_path}/missing.pth", output)
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(UserError, match="holds a list, expected a state dict"):
        take_over(paired, f"{tmp_path}/list.pth", output)
    with pytest.raises(UserError, match=r"discriminator\.pth"):
        take_over(paired, f"{paired}/discriminator.pth", output)
    with pytest.raises(UserError, match=r"has no generator target_to_source; set prune\.generator"):
        take_over(paired, f"{paired}/generator.pth", output, prune=PruneConfig(generator="target_to_source"))
    with pytest.raises(UserError, match=r"teacher\.family cyclegan is trained on unpaired images"):
        take_over(paired, f"{paired}/generator.pth", output, family="cyclegan")
    assert not output.exists()
