"""Runs the parallel branches of a block together, on the parameters that the branches own.

Branches that read the same tensor with the same kernel size share one convolution, whose weights are theirs one after
the other; all hidden channels share one norm; branches whose last kernels are equally large share the last convolution,
which adds them up. Branches 1x1 (2 channels) and 3x3 (3 channels) of a block thus run two convolutions, one norm over 5
channels and two convolutions. Nothing is stored: weights are put together in every pass, so gradients and running
statistics arrive where the branches keep them, and the state dict does not know about any of this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import reduce
from operator import add
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

_Item = TypeVar("_Item")


class BranchLayers(NamedTuple):
    """The layers of a branch.

    Attributes:
        hidden: Convolution, norm and activation that make the hidden channels.
        depthwise: The same for every hidden channel on its own; None in a residual-conv branch.
        dropout: What lies in front of the last convolution; None if nothing does.
        out: The last convolution.
    """

    hidden: nn.Sequential
    depthwise: nn.Sequential | None
    dropout: nn.Module | None
    out: nn.Conv2d

    @property
    def first(self) -> nn.Conv2d:
        """The convolution that reads the branch's input."""
        convolution = self.hidden[0]
        assert isinstance(convolution, nn.Conv2d)
        return convolution

    @classmethod
    def of(
        cls, hidden: nn.Module, *, depthwise: nn.Module | None, dropout: nn.Module | None, out: nn.Module
    ) -> BranchLayers:
        """Takes the modules of a branch, which are of these types."""
        assert isinstance(hidden, nn.Sequential)
        assert isinstance(depthwise, nn.Sequential | None)
        assert isinstance(out, nn.Conv2d)
        return cls(hidden, depthwise, dropout, out)


def sum_together(x: Tensor, branches: Sequence[BranchLayers]) -> Tensor:
    """Returns the sum of the outputs of all branches, within rounding of the sum of their single outputs.

    Args:
        x: The input of every branch, [N, C, H, W].
        branches: At least one.
    """
    groups = _by_kernel(branches, lambda branch: branch.first)
    branches = [branch for group in groups for branch in group]
    hidden = torch.cat([_convolved(x, [branch.first for branch in group]) for group in groups], dim=1)
    pieces = _normalised(hidden, [branch.hidden for branch in branches])
    deep = [(place, branch.depthwise) for place, branch in enumerate(branches) if branch.depthwise is not None]
    if deep:
        convolved = torch.cat([layers[0](pieces[place]) for place, layers in deep], dim=1)
        for (place, _), piece in zip(deep, _normalised(convolved, [layers for _, layers in deep]), strict=True):
            pieces[place] = piece
    ends = [
        (branch.out, piece if branch.dropout is None else branch.dropout(piece))
        for branch, piece in zip(branches, pieces, strict=True)
    ]
    return reduce(add, (_added(group) for group in _by_kernel(ends, lambda end: end[0])))


def _by_kernel(items: Sequence[_Item], convolution: Callable[[_Item], nn.Module]) -> list[list[_Item]]:
    """Groups items by the kernel size of their convolutions, in the order in which sizes come first."""
    groups: defaultdict[object, list[_Item]] = defaultdict(list)
    for item in items:
        groups[convolution(item).kernel_size].append(item)
    return list(groups.values())


def _weight(convolution: nn.Conv2d) -> Tensor:
    """Returns the weights as they count in this pass; spectral norm computes them just before it."""
    for hook in convolution._forward_pre_hooks.values():
        hook(convolution, ())
    return convolution.weight


def _convolved(x: Tensor, convolutions: Sequence[nn.Conv2d]) -> Tensor:
    """Returns the outputs of convolutions of one kernel size, one after the other in the channels."""
    first = convolutions[0]
    weight = torch.cat([_weight(each) for each in convolutions])
    biases = [each.bias for each in convolutions if each.bias is not None]
    return first._conv_forward(x, weight, torch.cat(biases) if biases else None)


def _added(ends: Sequence[tuple[nn.Conv2d, Tensor]]) -> Tensor:
    """Returns the sum of the outputs of convolutions of one kernel size, each of its own input."""
    first = ends[0][0]
    weight = torch.cat([_weight(each) for each, _ in ends], dim=1)
    biases = [each.bias for each, _ in ends if each.bias is not None]
    inputs = torch.cat([piece for _, piece in ends], dim=1)
    return first._conv_forward(inputs, weight, torch.stack(biases).sum(dim=0) if biases else None)


def _normalised(x: Tensor, layers: Sequence[nn.Sequential]) -> list[Tensor]:
    """Applies the norm and activation of each of several layers to its share of the channels of x."""
    norms, (_, first, activation) = [each[1] for each in layers], layers[0]
    widths = [norm.num_features for norm in norms]
    names = [name for name in ("weight", "bias", "running_mean", "running_var") if getattr(first, name) is not None]
    together = {name: torch.cat([getattr(norm, name) for norm in norms]) for name in names}
    outputs = activation(functional_call(first, together, (x,)))
    if first.training and "running_mean" in together:
        with torch.no_grad():
            for name in ("running_mean", "running_var"):
                for norm, values in zip(norms, together[name].split(widths), strict=True):
                    getattr(norm, name).copy_(values)
            for norm in norms[1:]:  # the first one has counted the batch; instance norms count none
                if isinstance(norm, _BatchNorm) and norm.num_batches_tracked is not None:
                    norm.num_batches_tracked.add_(1)
    return list(outputs.split(widths, dim=1))
