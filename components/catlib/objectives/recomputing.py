"""Less memory for more time: activations inside a generator are computed a second time for the gradient, not kept.

A generator runs as usual, but of each of its segments only the input is kept. When the gradient comes back to a
segment, the segment runs again. It then finds the buffers as they were before its first run, and leaves those of today
alone. So running statistics move once per pass, a spectral norm takes its power iteration once and divides by the same
number both times, and dropout draws the same random numbers. The gradients are those of the usual step.
"""

from __future__ import annotations

import contextlib
from functools import partial
from types import MethodType

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from components.catlib.networks.generator import Generator


def recompute(generator: Generator) -> None:
    """Makes a generator keep only the inputs of its segments in training.

    Args:
        generator: Changed in place; without gradients, or in eval mode, it runs as before.
    """
    for path in generator.segments:
        segment = generator.get_submodule(path)
        # A method of the instance, so that a deep copy of the network calls its own layers.
        segment.forward = MethodType(_run, segment)


def _run(segment: nn.Module, *inputs: Tensor) -> Tensor:
    forward = type(segment).forward
    if not (segment.training and torch.is_grad_enabled()):
        return forward(segment, *inputs)
    contexts = contextlib.nullcontext(), _AsBefore(segment)
    output = checkpoint(partial(forward, segment), *inputs, use_reentrant=False, context_fn=lambda: contexts)
    assert isinstance(output, Tensor)
    return output


class _AsBefore:
    """A context, to be entered any number of times, in which a module has the buffers of its making."""

    def __init__(self, module: nn.Module) -> None:
        self._buffers = [
            (part, name, buffer.clone())
            for part in module.modules()
            for name, buffer in part.named_buffers(recurse=False)
        ]
        self._today: list[Tensor] = []

    def __enter__(self) -> None:
        self._today = [part.get_buffer(name) for part, name, _ in self._buffers]
        for part, name, before in self._buffers:
            setattr(part, name, before.clone())

    def __exit__(self, *_: object) -> None:
        for (part, name, __), today in zip(self._buffers, self._today, strict=True):
            setattr(part, name, today)
        self._today = []
