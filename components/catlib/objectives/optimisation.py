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
from components.catlib.objectives.parts import check_parts
from components.catlib.objectives.recomputing import recompute


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
        config: `channels_last`, `fuse_branches`, `compile`, `recompute_activations` and `images_per_pass`.

    Returns:
        The network to call in training. It shares all weights with the argument, which is never compiled itself.

    Raises:
        UserError: Its norms cannot be trained by several processes on CPUs, or not with parts of a batch.
    """
    check_norms(accelerator, [network])
    check_parts(network, config)
    if config.recompute_activations and isinstance(network, Generator):
        recompute(network)
    prepared = laid_out(accelerator, network, config)
    return cast("nn.Module", torch.compile(prepared)) if config.compile else prepared


def laid_out(accelerator: Accelerator, network: nn.Module, config: TrainingConfig) -> nn.Module:
    """Returns a network on the accelerator's device, in its precision, and in the memory format of the images.

    Args:
        accelerator: Device and precision.
        network: Changed in place.
        config: `channels_last` and `fuse_branches`.
    """
    if config.fuse_branches and isinstance(network, Generator):
        network.fuse_branches()
    if config.channels_last:
        network.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]
    return accelerator.prepare(network)


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


def noting(
    groups: Iterable[tuple[float, dict[str, Tensor]]], noted: dict[str, Tensor], *, whole: str | None = None
) -> Iterator[Tensor]:
    """Yields for each group of losses the scalar to back-propagate, and notes the losses of the batch, detached.

    Args:
        groups: The losses of a part by name, with the share of the part in its batch.
        noted: Gets the losses by name; those of one name add up over the parts.
        whole: Name of the loss that holds the others of its group; None: the scalar is their sum.
    """
    for share, losses in groups:
        shown = losses if share == 1 else {name: share * loss for name, loss in losses.items()}
        for name, loss in shown.items():
            noted[name] = noted[name] + loss.detach() if name in noted else loss.detach()
        yield total(shown) if whole is None else shown[whole]


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


def detached(losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns scalars without their graphs; they stay on the device."""
    return {name: loss.detach() for name, loss in losses.items()}
