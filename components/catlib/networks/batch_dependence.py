"""Generators whose images depend on what else is in their batch, even outside of training.

A batch norm without running statistics normalises with the batch in every mode. Such a generator computes one function
where it is trained (a batch), another where it is scored (another batch), a third where it is used (one image). So none
is trained here. One that was trained elsewhere is taken for what it computes of one image at a time.
"""

from __future__ import annotations

import logging
from typing import TypeVar

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from components.catlib.errors import UserError
from components.catlib.networks.generator import Generator
from components.catlib.networks.modules import InstanceNorm

logger = logging.getLogger(__name__)

_Network = TypeVar("_Network", bound=nn.Module)


def settle_norms(generator: Generator, *, trains: bool, where: str, advice: str) -> None:
    """Deals with batch norms without running statistics: refused if they are trained, else as `one_at_a_time`.

    Args:
        generator: The generator; changed in place.
        trains: Whether it will be trained.
        where: What it is or where it comes from; it begins the messages.
        advice: What to do, the end of the message.

    Raises:
        UserError: It has such norms, and will be trained.
    """
    if not trains:
        one_at_a_time(generator, where=where)
    elif generator.architecture.norm.depends_on_batch:
        raise UserError(
            f"{where} has batch norms without running statistics, so that every image would depend on what else is in "
            f"its batch, even after training; {advice}."
        )


def one_at_a_time(generator: _Network, *, where: str) -> _Network:
    """Makes a generator compute every image of a batch as if it came alone, and warns if that changes anything.

    The batch statistics of one image are its instance statistics, so batch norms without running statistics become
    instance norms with the same scales and biases. Names and values in the state dict stay.

    Args:
        generator: A generator that will not be trained; changed in place.
        where: Where it comes from, for the warning.

    Returns:
        The generator.
    """
    found = False
    for parent in list(generator.modules()):
        for name, norm in parent.named_children():
            if isinstance(norm, _BatchNorm) and norm.running_mean is None:
                parent.add_module(name, _of_each_image(norm))
                found = True
    if found:
        logger.warning(
            "%s: its batch norms keep no running statistics, so an image would depend on what else is in its batch: "
            "every image is computed as if it came alone",
            where,
        )
    return generator


def _of_each_image(norm: _BatchNorm) -> nn.InstanceNorm2d:
    instance = InstanceNorm(norm.num_features, eps=norm.eps, affine=norm.affine)
    instance.weight, instance.bias = norm.weight, norm.bias
    return instance.train(norm.training)
