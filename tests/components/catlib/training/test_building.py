"""Objectives made from recipes and artifacts: which networks, with which weights."""

from pathlib import Path
from typing import Any

import pytest
import torch

from components.catlib.config import NormConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import write_architecture
from components.catlib.networks.directions import Direction
from components.catlib.networks.families import build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.model_files import write_networks
from components.catlib.objectives.distillation import DistillationObjective
from components.catlib.training.building import build_teacher_objective
from components.catlib.training.distilling import build_distillation_objective
from tests.components.catlib.objectives.test_teachers import build as build_teacher
from tests.components.catlib.objectives.tiny import (
    NUM_PLANES,
    SIZE,
    SPADE_SIZE,
    batch,
    distill_config,
    narrower,
    teacher_config,
    weights_of,
)
from tests.components.opened import opened


def _size(family: str) -> tuple[int, int]:
    return SPADE_SIZE if family == "spade" else SIZE


def _teacher_folder(folder: Path, family: str, **settings: Any) -> Path:
    folder.mkdir()
    objective = build_teacher(family, **settings)
    write_networks(
        folder, generators=objective.generators, discriminators=objective.discriminators, input_size=_size(family)
    )
    return folder


def _student(teacher_family: str) -> Generator:
    teacher = build_teacher(teacher_family).generators["source_to_target"]
    assert isinstance(teacher, Generator)
    return narrower(teacher)


def _student_folder(
    folder: Path, family: str, *, direction: str = "source_to_target", inherited: Generator | None = None
) -> Path:
    folder.mkdir()
    if inherited is not None:
        write_networks(folder, generators={direction: inherited}, discriminators={}, input_size=_size(family))
    else:
        write_architecture(folder, direction, _student(family).architecture, _size(family))
    return folder


def _distil(family: str, teacher_folder: Path, student_folder: Path, **settings: Any) -> DistillationObjective:
    return build_distillation_objective(
        distill_config(family, **settings),
        teacher=opened(teacher_folder),
        student=opened(student_folder),
        accelerator=Accelerator(cpu=True),
    )


def _equal(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    ours, theirs = weights_of({"network": first}), weights_of({"network": second})
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("family", ["pix2pix", "cyclegan", "spade"])
def test_from_teacher_and_student_folders(family: str, tmp_path: Path) -> None:
    teacher_folder, student_folder = _teacher_folder(tmp_path / "t", family), _student_folder(tmp_path / "s", family)
    teacher = build_teacher(family)
    objectives = [_distil(family, teacher_folder, student_folder, seed=seed) for seed in (0, 0, 1)]
    students = [objective.generators["source_to_target"] for objective in objectives]
    assert isinstance(students[0], Generator)
    assert students[0].architecture == _student(family).architecture
    assert _equal(students[0], students[1])
    assert not _equal(students[0], students[2])
    assert _equal(objectives[0].discriminators["target"], teacher.discriminators["target"])
    assert _equal(objectives[0].teachers["source_to_target"], teacher.generators["source_to_target"])
    objectives[0].step(batch(family))


@pytest.mark.parametrize(("family", "kind"), [("pix2pix", "normal"), ("spade", "xavier")])
def test_fresh_weights_follow_the_family(family: str, kind: str, tmp_path: Path) -> None:
    teacher_folder, student_folder = _teacher_folder(tmp_path / "t", family), _student_folder(tmp_path / "s", family)
    expected = _student(family)
    for settings in ({}, {"init": "normal", "init_gain": 0.5}):
        student = _distil(family, teacher_folder, student_folder, seed=3, **settings).generators["source_to_target"]
        chosen, gain = settings.get("init", kind), settings.get("init_gain", 0.02)
        initialise(expected, kind=chosen, gain=gain, seed=3 * 8 + 4)
        assert _equal(student, expected)


def test_inherited_weights_are_kept(tmp_path: Path) -> None:
    inherited = _student("pix2pix")
    student_folder = _student_folder(tmp_path / "s", "pix2pix", inherited=inherited)
    objective = _distil("pix2pix", _teacher_folder(tmp_path / "t", "pix2pix"), student_folder)
    assert _equal(objective.generators["source_to_target"], inherited)


def test_fresh_discriminator(tmp_path: Path) -> None:
    teacher_folder = _teacher_folder(tmp_path / "t", "cyclegan")
    objective = _distil("cyclegan", teacher_folder, _student_folder(tmp_path / "s", "cyclegan"), discriminator="fresh")
    of_teacher = build_teacher("cyclegan").discriminators["target"]
    fresh = objective.discriminators["target"]
    assert not _equal(fresh, of_teacher)
    assert fresh.architecture == of_teacher.architecture


def test_the_students_direction_chooses_teacher_and_discriminator(tmp_path: Path) -> None:
    teacher_folder = _teacher_folder(tmp_path / "t", "cyclegan")
    student_folder = _student_folder(tmp_path / "s", "cyclegan", direction=Direction.TARGET_TO_SOURCE)
    objective, trained = _distil("cyclegan", teacher_folder, student_folder), build_teacher("cyclegan")
    assert list(objective.generators) == ["target_to_source"]
    assert _equal(objective.teachers["target_to_source"], trained.generators["target_to_source"])
    assert _equal(objective.discriminators["source"], trained.discriminators["source"])


def test_adaptors_exist_for_mse_alone(tmp_path: Path) -> None:
    teacher_folder = _teacher_folder(tmp_path / "t", "spade")
    student_folder = _student_folder(tmp_path / "s", "spade")
    for settings, expected in (
        ({"distiller": "mse"}, True),
        ({"distiller": {"kind": "mse", "weight": 0}}, False),
        ({}, False),
    ):
        objective = _distil("spade", teacher_folder, student_folder, **settings)
        assert ("adaptors" in objective.networks) == expected
        objective.step(batch("spade"))


def test_students_of_other_teachers_are_refused(tmp_path: Path) -> None:
    teacher_folder = _teacher_folder(tmp_path / "t", "pix2pix")
    with pytest.raises(UserError, match="family is inception_spade, the teacher's inception"):
        _distil("pix2pix", teacher_folder, _student_folder(tmp_path / "a", "spade"))
    other = tmp_path / "b"
    other.mkdir()
    architecture = _student("pix2pix").architecture
    longer = architecture.model_copy(update={"blocks": architecture.blocks * 2})
    write_architecture(other, "source_to_target", longer, SIZE)
    with pytest.raises(UserError, match=r"feature layers are down_sampling\.9, features\.1"):
        _distil("pix2pix", teacher_folder, other)
    both = _teacher_folder(tmp_path / "c", "cyclegan")
    with pytest.raises(UserError, match="describes 2 generators, expected one"):
        _distil("cyclegan", both, both)


def test_published_networks_of_a_teacher(tmp_path: Path) -> None:
    trained = build_teacher("cyclegan", seed=7)
    published = {}
    for name, network in (
        ("generator", trained.generators["source_to_target"]),
        ("generator_backward", trained.generators["target_to_source"]),
        ("discriminator_backward", trained.discriminators["source"]),
    ):
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
        published[name] = {"uri": str(tmp_path / f"{name}.pth")}
    objective = build_teacher("cyclegan", published=published)
    for direction, network in trained.generators.items():
        assert _equal(objective.generators[direction], network)
    assert _equal(objective.discriminators["source"], trained.discriminators["source"])
    assert _equal(objective.discriminators["target"], build_teacher("cyclegan").discriminators["target"]), "fresh"
    objective.step(batch("cyclegan"))
    with pytest.raises(UserError, match=r"from 3 to 3 channels, but the dataset has 4 source"):
        build_teacher_objective(
            teacher_config("pix2pix", published={"generator": published["generator"]}),
            in_channels=NUM_PLANES,
            out_channels=3,
            crop_size=SIZE,
            accelerator=Accelerator(cpu=True),
        )
    with pytest.raises(UserError, match=r"judges images of 3 channels, expected 6"):
        build_teacher("pix2pix", published={"discriminator": published["discriminator_backward"]})


def test_published_student_and_discriminator(tmp_path: Path) -> None:
    teacher_folder = _teacher_folder(tmp_path / "t", "spade")
    student, judge = _student("spade"), build_teacher("spade", seed=7).discriminators["target"]
    for name, network in (("g", student), ("d", judge)):
        torch.save(network.state_dict(), tmp_path / f"{name}.pth")
    files = {"generator": {"uri": str(tmp_path / "g.pth")}, "discriminator": {"uri": str(tmp_path / "d.pth")}}
    objective = _distil("spade", teacher_folder, _student_folder(tmp_path / "s", "spade"), published=files)
    assert _equal(objective.generators["source_to_target"], student)
    assert _equal(objective.discriminators["target"], judge)
    objective.step(batch("spade"))


def test_what_does_not_fit_the_data_is_refused() -> None:
    accelerator = Accelerator(cpu=True)
    with pytest.raises(UserError, match=r"cyclegan.*4 source and 3 target channels"):
        build_teacher_objective(
            teacher_config("cyclegan"), in_channels=4, out_channels=3, crop_size=SIZE, accelerator=accelerator
        )


def test_a_perceptual_loss_without_weights_is_refused(tmp_path: Path) -> None:
    teacher_folder, student_folder = _teacher_folder(tmp_path / "t", "spade"), _student_folder(tmp_path / "s", "spade")
    with pytest.raises(UserError, match=r"weights\.uri"):
        _distil("spade", teacher_folder, student_folder, perceptual=10)


def test_students_with_another_norm_than_the_teacher(tmp_path: Path) -> None:
    teacher_folder, folder = _teacher_folder(tmp_path / "t", "cyclegan"), tmp_path / "s"
    folder.mkdir()
    norm = NormConfig(kind="batch", track_running_stats=True)
    architecture = _student("cyclegan").architecture.model_copy(update={"norm": norm, "padding": "zero"})
    write_architecture(folder, "source_to_target", architecture, SIZE)
    losses = _distil("cyclegan", teacher_folder, folder).step(batch("cyclegan"))
    assert all(torch.isfinite(loss) for loss in losses.values())


MIXING = NormConfig(kind="batch")


def _saved(path: Path, norm: NormConfig) -> Path:
    architecture = _student("cyclegan").architecture.model_copy(update={"norm": norm})
    generator = build_generator(architecture)  # pyright: ignore[reportArgumentType]
    initialise(generator, kind="xavier", gain=1.0, seed=3)
    torch.save(generator.state_dict(), path)
    return path


def test_published_weights_that_mix_a_batch_are_used_one_image_at_a_time_but_not_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = {"generator": {"uri": str(_saved(tmp_path / "weights.pth", MIXING))}}
    made = {"in_channels": 3, "out_channels": 3, "crop_size": SIZE, "accelerator": Accelerator(cpu=True)}
    with pytest.raises(
        UserError,
        match=r"^.*weights\.pth has batch norms without .*teacher\.generator\.norm\.track_running_stats: true",
    ):
        build_teacher_objective(teacher_config("pix2pix", published=file), **made)
    assert caplog.records == []
    unchanged = teacher_config("pix2pix", published=file, epochs=0, decay_epochs=0)
    generator = build_teacher_objective(unchanged, **made).generators["source_to_target"].eval()
    images = 2 * torch.rand(2, 3, *SIZE) - 1
    torch.testing.assert_close(generator(images)[:1], generator(images[:1]))
    assert [record.levelname for record in caplog.records if "running statistics" in record.message] == ["WARNING"]


@pytest.mark.parametrize("inherited", [False, True])
def test_students_that_mix_a_batch_are_not_trained(
    inherited: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher_folder, folder = _teacher_folder(tmp_path / "t", "cyclegan"), tmp_path / "s"
    folder.mkdir()
    architecture = _student("cyclegan").architecture.model_copy(update={"norm": MIXING})
    if inherited:
        student = build_generator(architecture)  # pyright: ignore[reportArgumentType]
        write_networks(folder, generators={"source_to_target": student}, discriminators={}, input_size=SIZE)
    else:
        write_architecture(folder, "source_to_target", architecture, SIZE)
    with pytest.raises(
        UserError, match=rf"^The student of {folder} has .*prune\.student_norm\.track_running_stats: true"
    ):
        _distil("cyclegan", teacher_folder, folder)
    assert caplog.records == []


def test_published_students_that_mix_a_batch_are_used_one_image_at_a_time_but_not_trained(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    teacher_folder, folder = _teacher_folder(tmp_path / "t", "cyclegan"), _student_folder(tmp_path / "s", "cyclegan")
    published = {"generator": {"uri": str(_saved(tmp_path / "student.pth", MIXING))}}
    # The architecture beside it says which kind of norm the file holds: its tensors do not.
    with pytest.raises(UserError, match=r"student\.pth has batch norms without running statistics"):
        _distil("cyclegan", teacher_folder, folder, published=published)
    _distil("cyclegan", teacher_folder, folder, published=published, epochs=0, decay_epochs=0)
    assert "student.pth: its batch norms keep no running statistics" in caplog.text


def test_the_features_of_a_teacher_that_mixes_a_batch_are_those_of_each_image(tmp_path: Path) -> None:
    folder = tmp_path / "t"
    folder.mkdir()
    objective = build_teacher("cyclegan")
    wide = objective.generators["source_to_target"].architecture.model_copy(update={"norm": MIXING})
    teacher = build_generator(wide)  # pyright: ignore[reportArgumentType]
    initialise(teacher, kind="xavier", gain=1.0, seed=3)
    write_networks(
        folder,
        generators={"source_to_target": teacher},
        discriminators=objective.discriminators,
        input_size=SIZE,
    )
    distillation = _distil("cyclegan", folder, _student_folder(tmp_path / "s", "cyclegan"))
    images = 2 * torch.rand(3, 3, *SIZE) - 1
    frozen = distillation.teachers["source_to_target"].eval()
    _, features = frozen(images, return_features=True)
    _, alone = teacher.eval()(images[:1], return_features=True)
    for name, feature in features.items():
        torch.testing.assert_close(feature[:1], alone[name], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fuses", [False, True])
def test_teacher_student_and_frozen_teacher_fuse_their_branches_if_asked(fuses: bool, tmp_path: Path) -> None:
    objective = build_teacher("pix2pix", fuse_branches=fuses)
    teacher_folder, folder = _teacher_folder(tmp_path / "t", "pix2pix"), _student_folder(tmp_path / "s", "pix2pix")
    distillation = _distil("pix2pix", teacher_folder, folder, fuse_branches=fuses)
    for networks in (objective.generators, distillation.generators, distillation.teachers):
        (generator,) = networks.values()
        assert {module.fuses for module in generator.modules() if hasattr(module, "fuses")} == {fuses}
