"""Whole steps in float64, for tests that take one step in two ways."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.optim import SGD

from components.catlib.data.batches import Batch
from components.catlib.training.progress import Objective


@dataclass
class Taken:
    """What one step leaves: gradients, weights with buffers, and losses, by name."""

    gradients: dict[str, Tensor]
    state: dict[str, Tensor]
    losses: dict[str, Tensor]


def step_of(objective: Objective, images: Batch, *others: nn.Module, seed: int = 0) -> Taken:
    """Takes one step in float64.

    Args:
        objective: The objective, whose networks become float64.
        images: The batch.
        others: Further networks that the objective uses.
        seed: Seed of torch's random numbers.
    """
    for network in (*objective.networks.values(), *others):
        network.double()
    for side, optimizer in objective.optimizers.items():  # Adam would blow up rounding where the gradient is 0
        objective.optimizers[side] = SGD(optimizer.param_groups[0]["params"], lr=1e-5)
    torch.manual_seed(seed)
    losses = objective.step(Batch(images.source.double(), images.target.double()))
    networks = nn.ModuleDict(dict(objective.networks))
    gradients = {name: parameter.grad for name, parameter in networks.named_parameters() if parameter.grad is not None}
    return Taken(gradients, dict(networks.state_dict()), losses)


def assert_same_step(one: Taken, other: Taken) -> None:
    """Compares two steps to 12 digits: of the largest gradient, and of the largest value of each other tensor."""
    assert one.gradients
    largest = max(gradient.abs().max().item() for gradient in other.gradients.values())
    for what in ("gradients", "state", "losses"):
        ours, theirs = getattr(one, what), getattr(other, what)
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            # The gradient of a bias before a norm is 0 but for rounding, so it is no measure of itself.
            scale = largest if what == "gradients" else max(theirs[name].abs().max().item(), 1e-3)
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=1e-12 * scale, msg=f"{what}: {name}")
