"""A step that computes activations twice leaves what the usual step leaves, and keeps less in between."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.catlib.config import NormConfig
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.objectives import recomputing
from components.catlib.training.building import build_teacher_objective
from tests.components.catlib.objectives.steps import assert_same_step, step_of
from tests.components.catlib.objectives.test_distillation import build as build_student
from tests.components.catlib.objectives.test_teachers import build as build_teacher
from tests.components.catlib.objectives.tiny import GENERATOR, SPADE_GENERATOR, batch, teacher_config

BATCH = {"norm": NormConfig(kind="batch", track_running_stats=True)}
CUMULATIVE = {"norm": NormConfig(kind="syncbatch", track_running_stats=True), "dropout": 0.3}
COUNTED = {"norm": NormConfig(kind="instance", track_running_stats=True)}
SPECTRAL = {"spectral": True, "dropout": 0.3}


def teacher(family: str, changes: dict[str, Any], **settings: Any) -> Any:
    base = SPADE_GENERATOR if family == "spade" else GENERATOR
    return build_teacher(family, generator=base.model_copy(update=changes), **settings)


@pytest.mark.parametrize(
    ("family", "changes", "adversarial"),
    [
        *(("pix2pix", changes, "hinge") for changes in ({}, BATCH, CUMULATIVE, COUNTED)),
        ("cyclegan", BATCH, "wgangp"),
        ("cyclegan", CUMULATIVE, "lsgan"),
        ("spade", SPECTRAL, "wgangp"),
    ],
)
def test_a_teacher_learns_the_same(family: str, changes: dict[str, Any], adversarial: str) -> None:
    """Also running statistics, the counts of their updates, spectral norms and dropout, over two steps."""
    usual, again = (teacher(family, changes, adversarial=adversarial, recompute_activations=on) for on in (False, True))
    for seed in (1, 2):
        assert_same_step(*(step_of(each, batch(family, seed=seed), seed=seed) for each in (usual, again)))


@pytest.mark.parametrize(
    ("family", "distiller"), [("pix2pix", "kernel_alignment"), ("cyclegan", "mse"), ("spade", "kernel_alignment")]
)
def test_a_student_learns_the_same_from_features(family: str, distiller: str) -> None:
    taken = []
    for on in (False, True):
        objective = build_student(family, distiller=distiller, recompute_activations=on)
        taken.append(step_of(objective, batch(family), *objective.teachers.values()))
    assert_same_step(*taken)


def test_activations_inside_segments_are_not_kept() -> None:
    """The values that autograd keeps after a generator's pass, counted."""
    kept = []
    for on in (False, True):
        objective = teacher("pix2pix", {"num_blocks": 6}, recompute_activations=on)
        seen: dict[int, int] = {}

        def keep(value: Tensor, seen: dict[int, int] = seen) -> Tensor:
            seen[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
            return value

        weights = {
            each.untyped_storage().data_ptr() for each in objective.networks["generator_source_to_target"].parameters()
        }
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda value: value):
            image = objective._generator.train()(batch("pix2pix").source)
        assert image.requires_grad
        kept.append(sum(size for place, size in seen.items() if place not in weights))
    assert kept[1] < kept[0] / 5


def test_a_backward_pass_can_be_repeated() -> None:
    objective, images = teacher("pix2pix", BATCH, recompute_activations=True), batch("pix2pix").source
    generator = objective._generator.train()
    loss = generator(images).square().mean()
    before = {name: value.clone() for name, value in generator.named_buffers()}
    gradients = [torch.autograd.grad(loss, generator.parameters(), retain_graph=True, allow_unused=True) for _ in "12"]
    for one, other in zip(*gradients, strict=True):
        assert one is None or torch.equal(one, other)
    assert all(torch.equal(value, before[name]) for name, value in generator.named_buffers())


def test_it_works_in_bfloat16() -> None:
    weights = []
    for on in (False, True):
        objective = build_teacher_objective(
            teacher_config("pix2pix", precision="bf16", recompute_activations=on),
            in_channels=3,
            out_channels=3,
            crop_size=(16, 16),
            accelerator=Accelerator(cpu=True, precision="bf16"),
        )
        losses = objective.step(Batch(*vars(batch("pix2pix")).values()))
        weights.append([*objective.networks["generator_source_to_target"].state_dict().values(), *losses.values()])
    assert all(torch.equal(one, other) for one, other in zip(*weights, strict=True))


def test_networks_are_not_recomputed_unless_it_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recomputing, "checkpoint", None)
    teacher("pix2pix", {}).step(batch("pix2pix"))
    objective = teacher("pix2pix", {}, recompute_activations=True)
    with torch.no_grad():
        objective._generator.train()(batch("pix2pix").source)
    with pytest.raises(TypeError):
        objective.step(batch("pix2pix"))


def test_a_compiler_chooses_itself() -> None:
    with pytest.raises(UserError, match="compile: true cannot train with recompute_activations: true"):
        teacher_config("pix2pix", compile=True, recompute_activations=True)
    for name in ("compile", "recompute_activations"):
        teacher_config("pix2pix", **({"compile": True, "recompute_activations": True} | {name: False}))
