"""Optimisation steps on a card: settings that do not change what is computed, and resuming."""

import copy
import shutil

import pytest
import torch

from components.catlib.data.batches import Batch
from tests.benchmarks.steps import EXTENTS, example_batch, step_forms, student_objective, teacher_objective

pytestmark = pytest.mark.gpu

EXTENT = EXTENTS["tiny"]["pix2pix"]


def losses(objective, batch: Batch, steps: int = 2) -> list[float]:
    return [objective.step(batch)[name].item() for _ in range(steps) for name in ("generator", "discriminator")]


@pytest.mark.parametrize(("family", "stage"), [("pix2pix", "teacher"), ("pix2pix", "distill"), ("spade", "teacher")])
def test_a_step_computes_what_plain_torch_computes(device: str, family: str, stage: str):
    forms = step_forms(family, stage, device, "tiny", variants=False)
    assert forms.difference() < 1e-3


def test_channels_last_computes_the_same(device: str):
    batch = example_batch("pix2pix", EXTENT, device)
    expected = losses(teacher_objective("pix2pix", EXTENT, device, {}), batch)
    objective = teacher_objective("pix2pix", EXTENT, device, {"channels_last": True})
    weight = objective.generators["source_to_target"].get_submodule("down_sampling.4").weight
    assert weight.is_contiguous(memory_format=torch.channels_last)
    found = losses(objective, batch.to(device, memory_format=torch.channels_last))
    assert found == pytest.approx(expected, rel=1e-3)


def test_compiled_networks_compute_the_same(card: str):
    if not shutil.which("gcc") and not shutil.which("clang"):
        pytest.skip("compile needs a C compiler, and there is none here")
    batch = example_batch("pix2pix", EXTENT, card)
    expected = losses(teacher_objective("pix2pix", EXTENT, card, {}), batch)
    found = losses(teacher_objective("pix2pix", EXTENT, card, {"compile": True}), batch)
    assert found == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("make", [teacher_objective, student_objective])
def test_a_resumed_training_goes_on_bit_by_bit(device: str, make):
    torch.backends.cudnn.deterministic = True
    batches = [example_batch("pix2pix", EXTENT, device, seed=seed) for seed in range(4)]
    objective = make("pix2pix", EXTENT, device, {})
    for batch in batches[:2]:
        objective.step(batch)
    networks = {name: copy.deepcopy(network.state_dict()) for name, network in objective.networks.items()}
    optimizers = {name: copy.deepcopy(each.state_dict()) for name, each in objective.optimizers.items()}
    expected = [losses(objective, batch, 1) for batch in batches[2:]]
    resumed = make("pix2pix", EXTENT, device, {})
    for name, network in resumed.networks.items():
        network.load_state_dict(networks[name])
    for name, each in resumed.optimizers.items():
        each.load_state_dict(optimizers[name])
    assert [losses(resumed, batch, 1) for batch in batches[2:]] == expected
    for name, network in objective.networks.items():
        for key, tensor in network.state_dict().items():
            assert torch.equal(tensor, resumed.networks[name].state_dict()[key]), f"{name} {key}"


def test_cyclegan_in_parts_needs_less_memory_than_one_loss(card: str):
    forms = step_forms("cyclegan", "teacher", card, "tiny", axis="size", factor=4, variants=False)
    peaks = {}
    for name in ("plain", "ours"):
        forms.calls[name]()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        forms.calls[name]()
        torch.cuda.synchronize()
        peaks[name] = torch.cuda.max_memory_allocated() - before
    assert peaks["ours"] < 0.6 * peaks["plain"]


def test_a_batch_from_pinned_memory_arrives_whole(card: str):
    batch = example_batch("spade", EXTENTS["tiny"]["spade"], "cpu")
    pinned = Batch(batch.source.pin_memory(), batch.target.pin_memory())
    moved = pinned.to(card)
    torch.cuda.synchronize()
    assert torch.equal(moved.source.cpu(), batch.source)
    assert torch.equal(moved.target.cpu(), batch.target)
