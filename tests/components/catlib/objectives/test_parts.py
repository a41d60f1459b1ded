"""Batches in parts: their gradients are those of the whole batch, or they are refused."""

from typing import Any

import pytest
import torch
from torch import nn

from components.catlib.config import Recipe, validate
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.objectives.cyclegan import CycleGanObjective
from components.catlib.objectives.optimisation import prepare
from components.catlib.objectives.parts import parts_of
from tests.components.catlib.objectives.steps import assert_same_step, step_of
from tests.components.catlib.objectives.test_distillation import build as build_student
from tests.components.catlib.objectives.test_teachers import build as build_teacher
from tests.components.catlib.objectives.tiny import batch, distill_config, teacher_config

BATCH_NORM = {"norm": {"kind": "batch", "track_running_stats": True}}
SYNCHRONISED = {"kind": "syncbatch", "track_running_stats": True}


def test_parts_have_their_share_of_the_batch() -> None:
    images = Batch(torch.arange(5.0), 10 + torch.arange(5.0))
    parts = parts_of(images, 2)
    assert [part.share for part in parts] == [0.4, 0.4, 0.2]
    assert [part.images.source.tolist() for part in parts] == [[0, 1], [2, 3], [4]]
    assert [part.images.target.tolist() for part in parts] == [[10, 11], [12, 13], [14]]
    for whole in (None, 5, 9):
        ((share, same),) = parts_of(images, whole)
        assert share == 1
        assert same is images


@pytest.mark.parametrize(
    ("family", "adversarial"), [("pix2pix", "lsgan"), ("pix2pix", "vanilla"), ("cyclegan", "hinge")]
)
def test_a_teacher_learns_the_same_from_parts(family: str, adversarial: str) -> None:
    """Several steps, so that CycleGAN's pools hand out old images; the last part is smaller."""
    own = {"image_pool_size": 2} if family == "cyclegan" else {"reconstruction": "l2"}
    whole, parted = (
        build_teacher(family, adversarial=adversarial, images_per_pass=images, **own) for images in (None, 2)
    )
    for seed in range(3):
        assert_same_step(*(step_of(each, batch(family, size=5, seed=seed)) for each in (whole, parted)))
    if isinstance(whole, CycleGanObjective):
        for name, value in whole.extra_state().items():
            torch.testing.assert_close(value, parted.extra_state()[name])


@pytest.mark.parametrize(
    ("family", "distiller", "recompute"),
    [("pix2pix", "mse", False), ("cyclegan", "none", True), ("cyclegan", {"weight": 0}, False)],
)
def test_a_student_learns_the_same_from_parts(family: str, distiller: Any, recompute: bool) -> None:
    taken = []
    for images in (None, 2):
        objective = build_student(
            family, distiller=distiller, images_per_pass=images, recompute_activations=recompute and images is not None
        )
        taken.append(step_of(objective, batch(family, size=5), *objective.teachers.values()))
    assert_same_step(*taken)


@pytest.mark.parametrize("family", ["pix2pix", "cyclegan"])
def test_no_pass_sees_more_images(family: str) -> None:
    seen: list[int] = []
    objective = build_teacher(family, images_per_pass=2)
    for network in objective.networks.values():
        network.register_forward_hook(lambda _, inputs, __: seen.append(len(inputs[0])))
    objective.step(batch(family, size=5))
    assert set(seen) == {1, 2}


@pytest.mark.parametrize(
    ("family", "settings", "reason"),
    [
        ("pix2pix", {"generator": BATCH_NORM}, "generator.norm.kind batch normalises"),
        ("pix2pix", {"generator": {"norm": SYNCHRONISED}}, "generator.norm.kind syncbatch"),
        ("cyclegan", {"discriminator": BATCH_NORM}, "discriminator.norm.kind batch"),
        ("cyclegan", {"discriminator": {"family": "pixel", **BATCH_NORM}}, "discriminator.norm.kind batch"),
        ("pix2pix", {"generator": {"norm": {"track_running_stats": True}}}, "generator.norm.track_running_stats"),
        ("pix2pix", {"generator": {"dropout": 0.5}}, "generator.dropout draws"),
        ("cyclegan", {"adversarial": "wgangp"}, "adversarial: wgangp draws"),
        ("spade", {"perceptual": 0}, "the first norm of generator, of family inception_spade, is always batch norm"),
    ],
)
def test_a_recipe_whose_teacher_depends_on_the_batch_is_refused(
    family: str, settings: dict[str, Any], reason: str
) -> None:
    recipe = {"name": "r", "description": "d", "budgets": ["0.5x"]}
    section = {"family": family, "images_per_pass": 2, **settings}
    with pytest.raises(UserError, match=r"images_per_pass: 2 cannot split.*" + reason):
        validate(
            Recipe,
            recipe | {"teacher": section, "distill": {"perceptual": 0} if family == "spade" else {}},
            where="recipe",
        )
    whole = section | {"images_per_pass": None, "recompute_activations": True}
    validate(
        Recipe, recipe | {"teacher": whole, "distill": {"perceptual": 0} if family == "spade" else {}}, where="recipe"
    )


@pytest.mark.parametrize(
    ("sections", "reason"),
    [
        ({"distill": {"distiller": "kernel_alignment"}}, "distiller: kernel_alignment compares the images"),
        ({"prune": {"student_norm": SYNCHRONISED}}, "prune.student_norm.kind syncbatch"),
        ({"teacher": {"generator": BATCH_NORM}}, "teacher.generator.norm.kind batch"),
        ({"teacher": {"discriminator": BATCH_NORM}}, "teacher.discriminator.norm.kind batch"),
        ({"teacher": {"generator": {"dropout": 0.5}}}, "teacher.generator.dropout"),
        ({"distill": {"adversarial": "wgangp"}}, "adversarial: wgangp"),
    ],
)
def test_a_recipe_whose_student_depends_on_the_batch_is_refused(sections: dict[str, Any], reason: str) -> None:
    recipe = {"name": "r", "description": "d", "budgets": ["0.5x"]}
    sections = sections | {"distill": {"distiller": "none", "images_per_pass": 2, **sections.get("distill", {})}}
    with pytest.raises(UserError, match=r"images_per_pass: 2 cannot split.*" + reason):
        validate(Recipe, recipe | sections, where="recipe")
    validate(Recipe, recipe | {"distill": {"distiller": "none", "images_per_pass": 2}}, where="recipe")


def test_parts_larger_than_the_batch_are_refused() -> None:
    with pytest.raises(UserError, match=r"images_per_pass: 5 is more than .* batch_size: 4; set images_per_pass to"):
        teacher_config("pix2pix", images_per_pass=5, batch_size=4)
    for allowed in (4, 3, None):
        teacher_config("pix2pix", images_per_pass=allowed, batch_size=4)


def test_label_maps_are_not_distilled_in_parts() -> None:
    with pytest.raises(UserError, match=r"images_per_pass: 2 cannot split.*always batch norm"):
        distill_config("spade", distiller="none", images_per_pass=2)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.SyncBatchNorm(2), r"layer 1 \(SyncBatchNorm\) normalises an image by the whole batch"),
        (nn.BatchNorm2d(2, track_running_stats=False), r"layer 1 \(BatchNorm2d\) normalises"),
        (nn.InstanceNorm2d(2, track_running_stats=True), r"layer 1 \(InstanceNorm2d\) has buffers"),
        (nn.utils.spectral_norm(nn.Conv2d(2, 2, 1)), r"layer 1 \(Conv2d\) has buffers"),
        (nn.Dropout(0.1), r"layer 1 \(Dropout\) draws"),
    ],
)
def test_networks_from_outside_that_depend_on_the_batch_are_refused(layer: nn.Module, reason: str) -> None:
    network, accelerator = nn.Sequential(nn.Conv2d(3, 2, 1), layer), Accelerator(cpu=True)
    prepare(accelerator, network, teacher_config("pix2pix"))
    with pytest.raises(UserError, match=r"^images_per_pass: 2 cannot split batches .*" + reason):
        prepare(accelerator, network, teacher_config("pix2pix", images_per_pass=2))
    allowed = nn.Sequential(nn.Conv2d(3, 2, 1), nn.InstanceNorm2d(2, affine=True), nn.Dropout(0.0))
    prepare(accelerator, allowed, teacher_config("pix2pix", images_per_pass=2))
