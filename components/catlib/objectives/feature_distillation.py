"""What a student learns from inside its teacher: to have features like it (method sections 3 and 6)."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from components.catlib.config import DistillConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.errors import UserError
from components.catlib.networks.generators import Generator
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture
from components.catlib.objectives.kernel_alignment import kernel_alignment
from components.catlib.objectives.reconstruction import l2_loss

Features = dict[str, Tensor]
"""Outputs of a generator's distillation layers by name, each [N, C, H, W]."""


def compares_features(config: DistillConfig) -> bool:
    """Returns whether a recipe wants the student's features to be like the teacher's."""
    return config.distillation != "none" and config.lambda_distill > 0


def feature_channels(generator: Generator) -> dict[str, int]:
    """Returns the channels of every distillation layer, in order."""
    match generator.architecture:
        case InceptionArchitecture(down=(_, _, width)):
            return dict.fromkeys(generator.distillation_layers, width)
        case InceptionSpadeArchitecture(block_widths=widths):
            return {name: widths[name][1] for name in generator.distillation_layers}


class FrozenTeacher:
    """A teacher that only answers: in eval mode, without autograd, and running no layer whose output nobody wants."""

    def __init__(
        self, network: Generator, accelerator: Accelerator, *, wants_image: bool, wants_features: bool
    ) -> None:
        """Moves the teacher to the accelerator's device.

        Args:
            network: The teacher.
            accelerator: Device and precision.
            wants_image: Whether its images are asked for; without them it stops after the last distillation layer.
            wants_features: Whether its features are asked for.
        """
        self._wants_image = wants_image
        self._wants_features = wants_features
        network.eval().requires_grad_(False)
        self._modules = {name: network.get_submodule(name) for name in network.distillation_layers}
        self._network = accelerator.prepare(network)

    @torch.no_grad()
    def __call__(self, source: Tensor) -> tuple[Tensor | None, Features]:
        """Runs the teacher as far as needed.

        Args:
            source: [N, C, H, W], what the student is given too.

        Returns:
            Its image, or None when it is not wanted; its features, empty when they are not.
        """
        if self._wants_image and self._wants_features:
            return self._network(source, return_features=True)
        if self._wants_image:
            return self._network(source), {}
        if self._wants_features:
            return None, self._features_alone(source)
        return None, {}

    def _features_alone(self, source: Tensor) -> Features:
        features: Features = {}

        def keep(name: str, _module: nn.Module, _inputs: object, output: Tensor) -> None:
            features[name] = output
            if len(features) == len(self._modules):
                raise _AllFeaturesSeenError

        handles = [module.register_forward_hook(partial(keep, name)) for name, module in self._modules.items()]
        try:
            self._network(source)
        except _AllFeaturesSeenError:
            return features
        finally:
            for handle in handles:
                handle.remove()
        raise AssertionError(f"not all of {', '.join(self._modules)} ran")


class _AllFeaturesSeenError(Exception):
    """Ends a teacher's forward pass early; never leaves this module."""


class FeatureAdaptors(nn.Module):
    """1x1 convolutions from a student's channels to its teacher's, one per layer, for `mse` distillation."""

    def __init__(self, student: Generator, teacher: Generator) -> None:
        """Makes the convolutions with torch's default initialisation.

        Args:
            student: Whose features are adapted.
            teacher: Whose channels are wanted.
        """
        super().__init__()
        self._layers = student.distillation_layers
        ours, theirs = feature_channels(student), feature_channels(teacher)
        self.convolutions = nn.ModuleList(nn.Conv2d(ours[name], theirs[name], kernel_size=1) for name in self._layers)

    def forward(self, features: Features) -> Features:
        """Maps the student's features [N, student's C, H, W] to [N, teacher's C, H, W]."""
        return {
            name: convolution(features[name]) for name, convolution in zip(self._layers, self.convolutions, strict=True)
        }


class FeatureDistillation:
    """The distillation loss, over all layers: −Σ weight · KA, or Σ weight · MSE after an adaptor."""

    def __init__(self, config: DistillConfig, layers: Sequence[str], adaptors: nn.Module | None) -> None:
        """Checks the weights.

        Args:
            config: `distillation`, `lambda_distill`, `centred_kernels` and `layer_weights`.
            layers: The distillation layers, in order.
            adaptors: [FeatureAdaptors][] for `mse`, as prepared by the accelerator.

        Raises:
            UserError: There is not one weight per layer.
        """
        self._config = config
        self._adaptors = adaptors
        weights = config.layer_weights or (1.0,) * len(layers)
        if len(weights) != len(layers):
            raise UserError(
                f"distill.layer_weights has {len(weights)} numbers, expected {len(layers)}, one per feature layer: "
                f"{', '.join(layers)}."
            )
        self._weights = dict(zip(layers, weights, strict=True))

    def losses(self, student: Features, teacher: Features) -> tuple[Tensor, dict[str, Tensor]]:
        """Compares features.

        Args:
            student: With gradient.
            teacher: Without.

        Returns:
            The loss, weighted, a scalar; and per layer "misalignment_<layer>" = 1 − KA, or "feature_mse_<layer>",
            unweighted and detached.

        Raises:
            UserError: The batch is too small for kernel alignment.
        """
        config = self._config
        if config.distillation == "mse":
            assert self._adaptors is not None
            adapted = self._adaptors(student)
            per_layer = {name: l2_loss(adapted[name], teacher[name]) for name in self._weights}
            shown = {f"feature_mse_{name}": error.detach() for name, error in per_layer.items()}
        else:
            alignments = {
                name: kernel_alignment(student[name], teacher[name], centred=config.centred_kernels)
                for name in self._weights
            }
            per_layer = {name: -alignment for name, alignment in alignments.items()}
            shown = {f"misalignment_{name}": 1 - alignment.detach() for name, alignment in alignments.items()}
        weighted = torch.stack([weight * per_layer[name] for name, weight in self._weights.items()])
        return config.lambda_distill * weighted.sum(), shown
