"""A teacher that a student learns from: it answers, and does not learn."""

from functools import partial

import torch
from torch import Tensor, nn

from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.generators import Generator

Features = dict[str, Tensor]
"""Outputs of a generator's distillation layers by name, each [N, C, H, W]."""


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
