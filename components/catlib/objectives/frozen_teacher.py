"""A teacher that a student learns from and that does not learn itself."""

from functools import partial

import torch
from torch import Tensor, nn

from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.generator import Generator

Features = dict[str, Tensor]
"""Outputs of a generator's distillation layers by name, each [N, C, H, W]."""


class FrozenTeacher:
    """Runs a teacher in eval mode, without autograd, and without the layers whose output is not wanted."""

    def __init__(
        self, network: Generator, accelerator: Accelerator, *, wants_image: bool, wants_features: bool
    ) -> None:
        """Moves the teacher to the accelerator's device.

        Args:
            network: The teacher.
            accelerator: Device and precision.
            wants_image: Whether its images are wanted; without them it stops after the last distillation layer.
            wants_features: Whether its features are wanted.
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
            source: [N, C, H, W], the student's input.

        Returns:
            The image [N, C', H, W], or None if not wanted; and the features, empty if not wanted.
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
