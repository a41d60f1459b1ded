"""Exponential moving averages of generators' weights, which often make better images than the weights themselves.

Differs: the published implementation has options for it that do nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn


class MovingAverages:
    """Averages of the weights of several networks over the steps of a training.

    After step t an average is a ← d·a + (1 − d)·w with d = min(decay, t / (t + 10)): in the first steps, when weights
    are still far from good, the average forgets quickly. A weight that begins at 0 and is then 1 and 12 has, with decay
    0.9, the averages 1/11 · 0 + 10/11 · 1 = 0.91 and 2/12 · 0.91 + 10/12 · 12 = 10.2.

    Buffers, such as running statistics, are not averaged.
    """

    def __init__(self, networks: Mapping[str, nn.Module], *, decay: float) -> None:
        """Begins with the weights as they are.

        Args:
            networks: The networks by name.
            decay: Share of the average that stays in every step, in [0, 1); 0 turns averaging off.
        """
        self._networks = networks
        self._decay = decay
        self._averages = self._weights() if decay else {}
        self._step = 0

    @torch.no_grad()
    def update(self) -> None:
        """Updates the averages with the weights after another optimisation step."""
        self._step += 1
        decay = min(self._decay, self._step / (self._step + 10))
        if self._decay:
            weights: list[Tensor] = [
                parameter for network in self._networks.values() for parameter in network.parameters()
            ]
            averages = [average for of_network in self._averages.values() for average in of_network.values()]
            # A few kernels for all, not one for each.
            torch._foreach_lerp_(averages, weights, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replaces the weights by their averages inside the body, and restores the weights at its end."""
        weights = self._weights() if self._decay else {}
        self.apply()
        try:
            yield
        finally:
            self._put(weights)

    def apply(self) -> None:
        """Replaces the weights by their averages."""
        self._put(self._averages)

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """Returns the averages by network and name, for a checkpoint."""
        return self._averages

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]], *, step: int) -> None:
        """Restores what `state_dict` returned after `step` optimisation steps."""
        self._step = step
        for name, averages in self._averages.items():
            for key, average in averages.items():
                average.copy_(state[name][key])

    def _weights(self) -> dict[str, dict[str, Tensor]]:
        return {
            name: {key: parameter.detach().clone() for key, parameter in network.named_parameters()}
            for name, network in self._networks.items()
        }

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Mapping[str, Tensor]]) -> None:
        for name, values in weights.items():
            for key, parameter in self._networks[name].named_parameters():
                parameter.copy_(values[key])
