"""Activations made from their name in a recipe."""

from typing import Literal

from torch import nn


def make_activation(name: Literal["relu", "leaky_relu"]) -> nn.Module:
    """Makes an activation that overwrites its input, so that must be the fresh output of a norm.

    Args:
        name: `leaky_relu` has slope 0.01.
    """
    match name:
        case "relu":
            return nn.ReLU(inplace=True)
        case "leaky_relu":
            return nn.LeakyReLU(0.01, inplace=True)
