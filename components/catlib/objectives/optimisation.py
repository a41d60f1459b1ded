"""The parts of every optimisation step: Adam for two opponents, one update, and an opponent that holds still."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping
from typing import cast

import torch
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from components.catlib.config import TrainingConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.distributed.processes import average_gradients, check_norms
from components.catlib.networks.generator import Generator


def build_optimizers(
    config: TrainingConfig, *, generator: Iterable[nn.Module], discriminator: Iterable[nn.Module]
) -> dict[str, Optimizer]:
    """Makes one Adam for everything that generates and one for everything that judges (method section 4).

    Args:
        config: `learning_rate`, `adam_betas`, and `two_time_scales`: half the rate for generators, twice for
            discriminators.
        generator: Networks trained with the generator's loss.
        discriminator: Networks trained with the discriminator's loss.

    Returns:
        The optimisers "generator" and "discriminator".
    """
    factors = (
        {"generator": 0.5, "discriminator": 2.0} if config.two_time_scales else {"generator": 1.0, "discriminator": 1.0}
    )
    sides = {"generator": generator, "discriminator": discriminator}
    return {
        side: Adam(
            [parameter for network in networks for parameter in network.parameters()],
            lr=config.learning_rate * factors[side],
            betas=config.adam_betas,
            fused=True,  # one kernel for all parameters: the branches have hundreds of small ones
        )
        for side, networks in sides.items()
    }


def prepare(accelerator: Accelerator, network: nn.Module, config: TrainingConfig) -> nn.Module:
    """Moves a network that is trained to the accelerator's device and applies the recipe's settings to it.

    Args:
        accelerator: Device, precision and processes.
        network: Changed in place.
        config: `channels_last`, `fuse_branches` and `compile`.

    Returns:
        The network to call in training. It shares all weights with the argument, which is never compiled itself.

    Raises:
        UserError: Its norms cannot be trained by several processes on CPUs.
    """
    check_norms(accelerator, [network])
    if config.fuse_branches and isinstance(network, Generator):
        network.fuse_branches()
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    prepared = accelerator.prepare(network)
    return cast("nn.Module", torch.compile(prepared)) if config.compile else prepared


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """Returns the sum of the parts of a loss, all scalars."""
    return torch.stack(list(parts.values())).sum()


def update(accelerator: Accelerator, optimizer: Optimizer, losses: Iterable[Tensor]) -> None:
    """Takes one optimisation step down the gradient of a sum of scalars, averaged over processes.

    Args:
        accelerator: Device, precision and processes.
        optimizer: The optimiser.
        losses: The scalars. Each is back-propagated before the next is asked for, so that an iterator which computes
            them needs memory for the activations of one alone.
    """
    optimizer.zero_grad()
    for loss in losses:
        accelerator.backward(loss)
    average_gradients(accelerator, optimizer)
    accelerator.step(optimizer)


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Keeps the parameters of networks without gradients inside the body; inputs of the networks still get theirs."""
    parameters = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def averaged(accelerator: Accelerator, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns detached scalars, averaged over processes."""
    values = accelerator.mean(torch.stack([loss.detach() for loss in losses.values()]))
    return dict(zip(losses, values.unbind(), strict=True))
