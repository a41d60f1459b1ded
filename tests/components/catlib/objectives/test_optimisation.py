"""Optimisers of two opponents, and freezing."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from components.catlib.distributed.devices import Accelerator
from components.catlib.objectives.optimisation import build_optimizers, detached, frozen, total, update
from tests.components.catlib.objectives.tiny import teacher_config


@pytest.mark.parametrize(("two_time_scales", "rates"), [(False, (1e-3, 1e-3)), (True, (5e-4, 2e-3))])
def test_learning_rates_and_betas(two_time_scales: bool, rates: tuple[float, float]) -> None:
    config = teacher_config("spade", learning_rate=1e-3, adam_betas=(0, 0.9), two_time_scales=two_time_scales)
    first, second, judge = nn.Linear(1, 1), nn.Linear(2, 2), nn.Linear(3, 3)
    optimizers = build_optimizers(config, generator=[first, second], discriminator=[judge])
    for side, rate, size in zip(("generator", "discriminator"), rates, (8, 12), strict=True):
        (parameters,) = optimizers[side].param_groups
        assert parameters["lr"] == pytest.approx(rate)
        assert parameters["betas"] == (0, 0.9)
        assert sum(parameter.numel() for parameter in parameters["params"]) == size


def test_frozen_networks_pass_gradients_on_and_keep_none() -> None:
    network, images = nn.Linear(2, 1), torch.randn(3, 2, requires_grad=True)
    network.bias.requires_grad_(False)
    with frozen(network):
        output = network(images).sum()
    output.backward()
    assert images.grad is not None
    assert network.weight.grad is None
    assert network.weight.requires_grad
    assert not network.bias.requires_grad, "what was frozen before stays so"


def test_update_forgets_earlier_gradients() -> None:
    accelerator, network = Accelerator(cpu=True), nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = network.weight.item()
    for _ in range(2):
        update(accelerator, optimizer, [network(torch.ones(1, 1)).sum()])
    assert network.weight.item() == pytest.approx(before - 2)


def test_update_asks_for_a_part_when_the_one_before_is_back_propagated() -> None:
    network = nn.Linear(1, 1, bias=False)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = network.weight.item()
    seen: list[float] = []

    def parts() -> Iterator[torch.Tensor]:
        for factor in (1.0, 2.0, 4.0):
            yield factor * network(torch.ones(1, 1)).sum()
            assert network.weight.grad is not None
            seen.append(network.weight.grad.item())

    update(Accelerator(cpu=True), optimizer, parts())
    assert seen == [1, 3, 7]
    assert network.weight.item() == pytest.approx(before - 7)


def test_total_and_what_is_shown() -> None:
    parts = {"one": torch.tensor(1.5, requires_grad=True), "two": torch.tensor(-0.5)}
    assert total(parts).item() == 1
    shown = detached(parts)
    assert {name: value.item() for name, value in shown.items()} == {"one": 1.5, "two": -0.5}
    assert not any(value.requires_grad for value in shown.values())
