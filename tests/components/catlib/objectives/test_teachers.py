"""Training steps of the three families of teachers; their numbers are checked in tests/parity/test_steps.py."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.adversarial import generator_loss
from components.catlib.objectives.cyclegan import CycleGanObjective
from components.catlib.objectives.optimisation import build_optimizers
from components.catlib.training.building import TeacherObjective, build_teacher_objective
from tests.components.catlib.objectives.tiny import (
    NUM_PLANES,
    SIZE,
    SPADE_SIZE,
    assert_gradient_reaches_everything,
    batch,
    teacher_config,
    weights_of,
)

FAMILIES = ("pix2pix", "cyclegan", "spade")
OBJECTIVES = ("lsgan", "vanilla", "hinge", "wgangp")


def build(family: str, **settings: Any) -> TeacherObjective:
    spade = family == "spade"
    return build_teacher_objective(
        teacher_config(family, **settings),
        in_channels=NUM_PLANES if spade else 3,
        out_channels=3,
        crop_size=SPADE_SIZE if spade else SIZE,
        accelerator=Accelerator(cpu=True),
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_step_trains_every_parameter_with_scalar_losses(family: str, kind: str) -> None:
    objective = build(family, adversarial={"kind": kind, "weight": 0.7})
    before = weights_of(objective.networks)
    losses = objective.step(batch(family))
    assert all(loss.shape == () and torch.isfinite(loss) and not loss.requires_grad for loss in losses.values())
    assert any(name.startswith("gradient_penalty") for name in losses) == (kind == "wgangp")
    assert_gradient_reaches_everything(objective.networks)
    after = weights_of(objective.networks)
    assert all(network.training for network in objective.networks.values())
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == set(objective.networks)
    _assert_totals_are_sums(family, {name: loss.item() for name, loss in losses.items()})


def _assert_totals_are_sums(family: str, losses: dict[str, float]) -> None:
    """The parts of the generator's loss carry their weights; those of pix2pix's discriminator count half."""
    generator, discriminator = losses.pop("generator"), losses.pop("discriminator")
    half = {"discriminator_fake", "discriminator_real"} if family == "pix2pix" else set()
    judging = [
        value / 2 if name in half else value
        for name, value in losses.items()
        if name.startswith(("discriminator", "gradient_penalty"))
    ]
    generating = [value for name, value in losses.items() if not name.startswith(("discriminator", "gradient_penalty"))]
    assert discriminator == pytest.approx(sum(judging), rel=1e-5, abs=1e-6)
    assert generator == pytest.approx(sum(generating), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_equal_seeds_give_bitwise_equal_weights(family: str) -> None:
    ends = []
    for seed in (1, 1, 2):
        objective = build(family, seed=seed, **({"image_pool_size": 2} if family == "cyclegan" else {}))
        for step in range(2):
            objective.step(batch(family, seed=step))
        ends.append(weights_of(objective.networks))
    first, second, other = ends
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", FAMILIES)
def test_discriminator_keeps_the_gradient_of_its_own_step_alone(family: str) -> None:
    """The generator's step runs through the discriminator, but collects nothing there."""
    objective = build(family)
    seen: list[dict[str, torch.Tensor]] = []
    optimizer = objective.optimizers["discriminator"]
    judges = nn.ModuleDict(objective.discriminators)
    take_step = optimizer.step

    def step(*arguments: Any) -> Any:
        seen.append({name: parameter.grad.clone() for name, parameter in judges.named_parameters()})
        return take_step(*arguments)

    optimizer.step = step
    objective.step(batch(family))
    (own,) = seen
    assert all(torch.equal(parameter.grad, own[name]) for name, parameter in judges.named_parameters())
    assert all(parameter.requires_grad for parameter in judges.parameters())


def test_networks_are_named_by_direction_and_domain() -> None:
    objective = build("cyclegan")
    assert list(objective.generators) == ["source_to_target", "target_to_source"]
    assert set(objective.discriminators) == {"source", "target"}
    assert set(objective.networks) == {
        *(f"generator_{direction}" for direction in objective.generators),
        *(f"discriminator_{domain}" for domain in objective.discriminators),
    }
    for family in ("pix2pix", "spade"):
        objective = build(family)
        assert list(objective.networks) == ["generator_source_to_target", "discriminator_target"]
    weights = weights_of(build("cyclegan").networks)
    forward, backward = (
        {name.partition(".")[2]: value for name, value in weights.items() if name.startswith(f"generator_{way}")}
        for way in ("source_to_target", "target_to_source")
    )
    assert any(not torch.equal(forward[name], backward[name]) for name in forward)


def test_cyclegan_with_hinge_trains_generators_with_the_generators_loss() -> None:
    """Bug 14 of the published implementation: it takes the discriminator's loss there."""
    objective, images = build("cyclegan", adversarial={"kind": "hinge", "weight": 2.0}), batch("cyclegan")
    with torch.no_grad():
        fake = objective.generators["source_to_target"].train()(images.source)
        judgement = objective.discriminators["target"].train()(fake)
    losses = objective.step(images)
    torch.testing.assert_close(losses["adversarial_target"], -2 * judgement.mean())


def test_cyclegan_back_propagates_in_parts_what_one_sum_would_give() -> None:
    """In float64, the gradients are those of the whole loss, written down at once."""
    objective, images = build("cyclegan"), batch("cyclegan")
    assert isinstance(objective, CycleGanObjective)
    for network in objective.networks.values():
        network.double()
    images = Batch(source=images.source.double(), target=images.target.double())
    config, (there, back) = teacher_config("cyclegan"), objective.generators.values()
    whole = [copy.deepcopy(network).train() for network in (there, back)]
    fake_target, fake_source = whole[0](images.source), whole[1](images.target)
    cycle, identity = config.cycle.weight, config.cycle.weight * config.identity.weight
    (
        cycle * (whole[1](fake_target) - images.source).abs().mean()
        + cycle * (whole[0](fake_source) - images.target).abs().mean()
        + identity * (whole[0](images.target) - images.target).abs().mean()
        + identity * (whole[1](images.source) - images.source).abs().mean()
        + generator_loss(config.adversarial.kind, objective.discriminators["target"](fake_target))
        + generator_loss(config.adversarial.kind, objective.discriminators["source"](fake_source))
    ).backward()
    objective.optimizers["generator"].step = lambda: None  # type: ignore[method-assign]
    objective.step(images)
    for ours, theirs in zip((there, back), whole, strict=True):
        for (name, one), (_, other) in zip(ours.named_parameters(), theirs.named_parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=1e-12, atol=1e-14, msg=name)


@pytest.mark.parametrize(("identity", "most"), [(0.5, 2), (0.0, 2)])
def test_cyclegan_holds_the_activations_of_one_part_at_a_time(identity: float, most: int) -> None:
    """Six passes through generators kept until one backward pass would be three times the memory."""
    objective = build("cyclegan", identity=identity)
    assert isinstance(objective, CycleGanObjective)
    passes: list[int] = [0]
    for network in objective.generators.values():
        network.register_forward_hook(lambda *_: passes.append(passes.pop() + 1))
    accelerator, held = objective._accelerator, []
    backward = accelerator.backward
    accelerator.backward = lambda loss: (backward(loss), held.append(passes.pop()), passes.append(0))  # type: ignore
    objective.step(batch("cyclegan"))
    assert max(held) == most
    assert sum(held) == (6 if identity else 4)


def test_cyclegan_without_identity_loss() -> None:
    losses = build("cyclegan", identity=0).step(batch("cyclegan"))
    assert not [name for name in losses if name.startswith("identity")]


def test_cyclegan_goes_on_after_a_checkpoint_as_if_nothing_had_happened() -> None:
    settings = {"image_pool_size": 4, "seed": 5}
    straight, stopped = build("cyclegan", **settings), build("cyclegan", **settings)
    batches = [batch("cyclegan", seed=step) for step in range(6)]
    for images in batches[:3]:
        straight.step(images)
        stopped.step(images)
    resumed = build("cyclegan", **settings | {"seed": 6})
    for name, network in resumed.networks.items():
        network.load_state_dict(stopped.networks[name].state_dict())
    for side, optimizer in resumed.optimizers.items():
        optimizer.load_state_dict(stopped.optimizers[side].state_dict())
    assert isinstance(stopped, CycleGanObjective)
    state = stopped.extra_state()
    assert all(isinstance(value, torch.Tensor) for value in state.values())
    resumed.load_extra_state(state)
    for images in batches[3:]:
        straight.step(images)
        resumed.step(images)
    expected, found = weights_of(straight.networks), weights_of(resumed.networks)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_spade_weighs_feature_matching() -> None:
    with_matching, without = build("spade"), build("spade", feature_matching=0)
    assert with_matching.step(batch("spade"))["feature_matching"] > 0
    assert "feature_matching" not in without.step(batch("spade"))


def test_optimizers_cover_all_networks_once() -> None:
    for family in FAMILIES:
        objective = build(family)
        trained = [
            parameter
            for optimizer in objective.optimizers.values()
            for group in optimizer.param_groups
            for parameter in group["params"]
        ]
        networks = [parameter for network in objective.networks.values() for parameter in network.parameters()]
        assert sorted(map(id, trained)) == sorted(map(id, networks))
    assert set(
        build_optimizers(teacher_config("pix2pix"), generator=[nn.Linear(1, 1)], discriminator=[nn.Linear(1, 1)])
    )
