"""A teacher that a student learns from and that does not learn itself."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from components.catlib.config import TrainingConfig
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.generator import Generator
from components.catlib.objectives.optimisation import laid_out

Features = dict[str, Tensor]
"""Outputs of a generator's distillation layers by name, each [N, C, H, W]."""


class Seen(NamedTuple):
    """What student and teacher make of some images; the student's image and features have gradients.

    Attributes:
        fake: The student's image, [N, C, H, W].
        features: The student's features.
        teacher_image: The teacher's image; None if it is not wanted.
        teacher_features: The teacher's features; empty if they are not compared.
    """

    fake: Tensor
    features: Features
    teacher_image: Tensor | None
    teacher_features: Features


class FrozenTeacher:
    """Runs a teacher in eval mode, without autograd, and without the layers whose output is not wanted."""

    def __init__(
        self,
        network: Generator,
        accelerator: Accelerator,
        config: TrainingConfig | None = None,
        *,
        wants_image: bool,
        wants_features: bool,
    ) -> None:
        """Moves the teacher to the accelerator's device, and prepares it as the networks that are trained.

        Args:
            network: The teacher.
            accelerator: Device and precision.
            config: `channels_last` and `compile`; None: neither.
            wants_image: Whether its images are wanted; without them it stops after the last distillation layer.
            wants_features: Whether its features are wanted.
        """
        self._wants_image = wants_image
        self._wants_features = wants_features
        network.eval().requires_grad_(False)
        self._modules = {name: network.get_submodule(name) for name in network.distillation_layers}
        self._network = accelerator.prepare(network) if config is None else laid_out(accelerator, network, config)
        self._run: Callable[..., Any] = self._network
        self._run_for_features: Callable[[Tensor], Features] = self._features_alone
        if config is not None and config.compile:
            # The compiler drops what only the image needs, so nothing runs after the last feature either.
            self._run = torch.compile(self._network)
            self._run_for_features = torch.compile(self._features_of_all)

    @torch.no_grad()
    def __call__(self, source: Tensor) -> tuple[Tensor | None, Features]:
        """Runs the teacher as far as needed.

        Args:
            source: [N, C, H, W], the student's input.

        Returns:
            The image [N, C', H, W], or None if not wanted; and the features, empty if not wanted.
        """
        if self._wants_image and self._wants_features:
            return self._run(source, return_features=True)
        if self._wants_image:
            return self._run(source), {}
        if self._wants_features:
            return None, self._run_for_features(source)
        return None, {}

    def _features_of_all(self, source: Tensor) -> Features:
        return self._network(source, return_features=True)[1]

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
