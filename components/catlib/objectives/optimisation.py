"""What every optimisation step is made of: Adam for two opponents, one update, and an opponent that holds still."""

import contextlib
from collections.abc import Iterable, Iterator, Mapping

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.optim import Adam, Optimizer

from components.catlib.config import TrainingConfig


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
        )
        for side, networks in sides.items()
    }


def total(parts: Mapping[str, Tensor]) -> Tensor:
    """Returns the sum of the parts of a loss, all scalars."""
    return torch.stack(list(parts.values())).sum()


def update(accelerator: Accelerator, optimizer: Optimizer, loss: Tensor) -> None:
    """Takes one optimisation step down the gradient of a scalar."""
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()


@contextlib.contextmanager
def frozen(*networks: nn.Module) -> Iterator[None]:
    """Keeps networks that run inside from collecting gradients in their parameters; their inputs still get theirs."""
    parameters = [parameter for network in networks for parameter in network.parameters() if parameter.requires_grad]
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def averaged(accelerator: Accelerator, losses: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns detached scalars, averaged over devices."""
    values = accelerator.reduce(torch.stack([loss.detach() for loss in losses.values()]), reduction="mean")
    assert isinstance(values, Tensor)
    return dict(zip(losses, values.unbind(), strict=True))
