"""The distillation loss (method sections 3 and 6): the choice of the loss for features, and the weights of layers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from components.catlib.config.distillers import (
    DiscriminatorCooperatedConfig,
    DistillerConfig,
    FeatureConfig,
    KernelAlignmentConfig,
    MseConfig,
    NoDistillerConfig,
    OmgdConfig,
    OutputConfig,
)
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator
from components.catlib.objectives.distillers.discriminator_cooperated import DiscriminatorCooperation
from components.catlib.objectives.distillers.kernel_alignment import KernelAlignment
from components.catlib.objectives.distillers.mse import FeatureMse
from components.catlib.objectives.distillers.omgd import ChannelDistillation
from components.catlib.objectives.frozen_teacher import Features


class FeatureLoss(Protocol):
    """Compares a student's features with its teacher's, layer by layer."""

    def __init__(self, config: Any, networks: Mapping[str, nn.Module], /) -> None:
        """Takes its settings, and its own networks as prepared for training."""
        ...

    @staticmethod
    def own_networks(student: Generator, teacher: Generator, discriminator: Discriminator) -> dict[str, nn.Module]:
        """Returns the networks that are trained beside the student, by their names in checkpoints."""
        ...

    def compare(self, student: Features, teacher: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns per layer a loss with gradient, and the figure that the log shows, detached; all are scalars.

        Args:
            student: The student's features, with gradient.
            teacher: The teacher's features, without gradient.
        """
        ...


def feature_loss(config: DistillerConfig) -> type[FeatureLoss] | None:
    """Returns the loss that a recipe asks for; None when features are not compared: kind none, or weight 0."""
    match config:
        case NoDistillerConfig() | OutputConfig() | FeatureConfig(weight=0):
            return None
        case KernelAlignmentConfig():
            return KernelAlignment
        case MseConfig():
            return FeatureMse
        case DiscriminatorCooperatedConfig():
            return DiscriminatorCooperation
        case OmgdConfig():
            return ChannelDistillation


def own_networks(
    config: DistillerConfig, student: Generator, teacher: Generator, discriminator: Discriminator
) -> dict[str, nn.Module]:
    """Returns the networks that the distillation loss trains beside the student; most losses train none.

    Args:
        config: `distill.distiller` of the recipe.
        student: The generator that learns.
        teacher: The generator that it learns from.
        discriminator: The discriminator that features are shown to, by a loss that does so.
    """
    loss = feature_loss(config)
    return loss.own_networks(student, teacher, discriminator) if loss else {}


class FeatureDistillation:
    """The distillation loss over all layers: weight · Σ layer weight · loss of the layer."""

    def __init__(self, config: FeatureConfig, layers: Sequence[str], loss: FeatureLoss) -> None:
        """Checks the weights.

        Args:
            config: Weights of the loss and of the layers, and the name of the figure.
            layers: The distillation layers, in order.
            loss: Compares the features of a layer.

        Raises:
            UserError: The number of layer weights is not that of the layers.
        """
        config.check_layers(layers)
        weights = config.layer_weights or (1.0,) * len(layers)
        self._weight, self._figure, self._loss = config.weight, config.figure.name, loss
        self._weights = dict(zip(layers, weights, strict=True))

    def losses(self, student: Features, teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Compares features.

        Args:
            student: The student's features, with gradient.
            teacher: The teacher's features, without gradient.

        Returns:
            The weighted loss, a scalar; and for every layer the scalar "<figure>_<layer>", unweighted and detached.

        Raises:
            UserError: The batch is too small for the loss.
        """
        losses, figures = self._loss.compare(student, teacher)
        weighted = torch.stack([weight * losses[name] for name, weight in self._weights.items()])
        return self._weight * weighted.sum(), {f"{self._figure}_{name}": figures[name] for name in self._weights}


def build_feature_distillation(
    config: DistillerConfig, layers: Sequence[str], networks: Mapping[str, nn.Module]
) -> FeatureDistillation | None:
    """Makes the distillation loss that a recipe asks for; None when features are not compared.

    Args:
        config: `distill.distiller` of the recipe.
        layers: The distillation layers, in order.
        networks: What `own_networks` returned, and for a loss that shows it features the "discriminator", as prepared
            for training.

    Raises:
        UserError: The number of layer weights is not that of the layers.
    """
    loss = feature_loss(config)
    if loss is None:
        return None
    assert isinstance(config, FeatureConfig)
    return FeatureDistillation(config, layers, loss(config, networks))
