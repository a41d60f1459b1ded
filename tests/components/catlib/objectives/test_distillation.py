"""Distillation steps of every kind; their numbers are checked in tests/parity/test_steps.py."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.catlib.config import NormConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.networks.directions import Direction
from components.catlib.networks.families import build_generator
from components.catlib.objectives.distillation import DistillationObjective, distillation_objective
from components.catlib.objectives.feature_distillation import own_networks
from tests.components.catlib.objectives.test_teachers import build as build_teacher
from tests.components.catlib.objectives.tiny import (
    assert_gradient_reaches_everything,
    batch,
    distill_config,
    narrower,
    weights_of,
)

FAMILIES = ("pix2pix", "cyclegan", "spade")
LAYERS = {
    "pix2pix": ("down_sampling.9", "features.0", "features.1", "features.2"),
    "cyclegan": ("down_sampling.9", "features.0", "features.1", "features.2"),
    "spade": ("head_0", "G_middle_1", "up_1"),
}


def build(
    family: str, *, direction: str = "source_to_target", student: dict[str, Any] | None = None, **settings: Any
) -> DistillationObjective:
    """Makes an objective with the discriminator of a teacher and a narrower student, perhaps with other options."""
    trained = build_teacher(family)
    domain = {"source_to_target": "target", "target_to_source": "source"}[direction]
    teacher = trained.generators[direction]
    torch.manual_seed(0)
    network = build_generator(narrower(teacher).architecture.model_copy(update=student or {}))
    networks = {f"generator_{direction}": network, f"discriminator_{domain}": trained.discriminators[domain]}
    config = distill_config(family, **settings)
    networks |= own_networks(config.distiller, network, teacher, trained.discriminators[domain])
    return distillation_objective(config, networks, Accelerator(cpu=True), teacher=teacher, direction=direction)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "distiller", ["kernel_alignment", "mse", "discriminator_cooperated", "wavelet", "content_relations", "none"]
)
def test_gradient_reaches_every_parameter_and_no_part_of_the_teacher(family: str, distiller: str) -> None:
    objective = build(family, distiller=distiller)
    teacher = objective.teachers["source_to_target"]
    before = weights_of({"teacher": teacher})
    losses = objective.step(batch(family))
    assert all(loss.shape == () and torch.isfinite(loss) and not loss.requires_grad for loss in losses.values())
    assert_gradient_reaches_everything(objective.networks)
    assert ("adaptors" in objective.networks) == (distiller == "mse")
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert not teacher.training
    after = weights_of({"teacher": teacher})
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert ("connectors" in objective.networks) == (distiller == "discriminator_cooperated")
    figures = {
        "kernel_alignment": "misalignment",
        "mse": "feature_mse",
        "discriminator_cooperated": "judged_distance",
    }
    shown = figures.get(distiller)
    per_layer = [name for name in losses if name.startswith(tuple(figures.values()))]
    assert per_layer == ([f"{shown}_{layer}" for layer in LAYERS[family]] if shown else [])
    assert ("distillation" in losses) == (distiller != "none")


@pytest.mark.parametrize("family", FAMILIES)
def test_total_is_the_sum_of_its_parts(family: str) -> None:
    losses = build(family, distiller={"weight": 0.5}).step(batch(family))
    parts = ("adversarial", "reconstruction", "feature_matching", "distillation")
    assert losses["generator"].item() == pytest.approx(
        sum(losses[name].item() for name in parts if name in losses), rel=1e-5
    )
    misalignments = [loss for name, loss in losses.items() if name.startswith("misalignment")]
    assert losses["distillation"].item() == pytest.approx(0.5 * sum(loss.item() - 1 for loss in misalignments))


def test_student_starts_in_train_mode() -> None:
    """Bug 1 of the published implementation: it leaves the student in eval mode until its first evaluation."""
    for mode in (True, False):
        objective = build("pix2pix")
        for network in objective.networks.values():
            network.train(mode)
        losses = objective.step(batch("pix2pix"))
        assert all(network.training for network in objective.networks.values())
        if mode:
            expected = losses
    assert {name: loss.item() for name, loss in losses.items()} == {
        name: loss.item() for name, loss in expected.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_a_single_image_is_refused(family: str) -> None:
    """Bug 6: its kernel alignment is constantly 1."""
    with pytest.raises(UserError, match=r"batch of 1.*distill\.batch_size"):
        build(family).step(batch(family, size=1))
    build("pix2pix", distiller="none").step(batch("pix2pix", size=1))


@pytest.mark.parametrize(
    ("family", "settings", "complaint"),
    [
        ("spade", {"reconstruction": 5.0}, "'reconstruction': spade has no such setting, only pix2pix and cyclegan"),
        ("spade", {"reconstruction": "l2"}, "'reconstruction': spade has no such setting"),
        ("pix2pix", {"feature_matching": 5.0}, "'feature_matching': pix2pix has no such setting, only spade"),
    ],
)
def test_losses_without_effect_are_refused(family: str, settings: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        build(family, **settings)


def test_paired_students_learn_from_targets_and_unpaired_ones_from_the_teacher() -> None:
    for family in ("pix2pix", "cyclegan"):
        objective, images = build(family, reconstruction=2.0), batch(family)
        with torch.no_grad():
            given = objective.generators["source_to_target"].train()(images.source)
            of_teacher = objective.teachers["source_to_target"](images.source)
        wanted = images.target if family == "pix2pix" else of_teacher
        losses = objective.step(images)
        torch.testing.assert_close(losses["reconstruction"], 2 * (given - wanted).abs().mean())


def test_the_other_direction_swaps_source_and_target() -> None:
    images, seen = batch("cyclegan"), []
    objective = build("cyclegan", direction=Direction.TARGET_TO_SOURCE)
    assert list(objective.networks) == ["generator_target_to_source", "discriminator_source"]
    objective.generators["target_to_source"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    objective.discriminators["source"].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    objective.step(images)
    translated, fake_judged, real_judged, _ = seen
    assert torch.equal(translated, images.target)
    assert torch.equal(real_judged, images.source)
    assert not torch.equal(fake_judged, images.source)


@pytest.mark.parametrize("family", FAMILIES)
def test_no_pass_through_a_network_more_than_needed(family: str) -> None:
    """Student: once, and once more for SPADE's discriminator; teacher: once."""
    objective, passes = build(family), {"student": 0, "teacher": 0}

    def count(name: str) -> Any:
        def add(*_: Any) -> None:
            passes[name] += 1

        return add

    objective.generators["source_to_target"].register_forward_pre_hook(count("student"))
    objective.teachers["source_to_target"].register_forward_pre_hook(count("teacher"))
    objective.step(batch(family))
    assert passes == {"student": 2 if family == "spade" else 1, "teacher": 1}


def test_a_teacher_that_has_nothing_to_say_does_not_run() -> None:
    for settings in ({"distiller": "none"}, {"distiller": {"weight": 0.0}}):
        objective = build("pix2pix", **settings)
        objective.teachers["source_to_target"].register_forward_pre_hook(lambda *_: pytest.fail("the teacher runs"))
        objective.step(batch("pix2pix"))


def test_students_with_other_norms_and_paddings() -> None:
    norm = NormConfig(kind="batch", track_running_stats=True)
    for student in ({"norm": norm}, {"padding": "zero"}, {"norm": norm, "padding": "replicate"}):
        objective = build("cyclegan", student=student)
        losses = objective.step(batch("cyclegan"))
        assert all(torch.isfinite(loss) for loss in losses.values())
        assert_gradient_reaches_everything(objective.networks)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_starts_give_bitwise_equal_weights(family: str) -> None:
    ends: list[dict[str, Tensor]] = []
    for _ in range(2):
        objective = build(family, distiller="mse")
        for step in range(2):
            objective.step(batch(family, seed=step))
        ends.append(weights_of(objective.networks))
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_centred_kernels_and_layer_weights_change_the_loss() -> None:
    losses = [
        build("pix2pix", distiller=settings).step(batch("pix2pix"))["distillation"].item()
        for settings in ({}, {"centred": True}, {"layer_weights": (0, 0, 0, 1)})
    ]
    assert len(set(losses)) == 3
    with pytest.raises(UserError, match="layer_weights"):
        build("spade", distiller={"layer_weights": (0, 0, 0, 1)})
