"""Explores the names and shapes of a published state dict: what a network is built from is read off them.

Importing this loads no torch: shapes are all that is looked at.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from components.catlib.config import NormConfig, Section
from components.catlib.errors import UserError
from components.catlib.networks.layers import ImageSize

if TYPE_CHECKING:
    from torch import Tensor

MAX_CHANNELS = 2**16
MAX_KERNEL_SIZE = 2**8
"""Convolutions beyond these are refused: a few stored bytes can pose as a tensor of any shape."""

SettingsType = TypeVar("SettingsType", bound=Section)


class PublishedLayout(NamedTuple):
    """How a family of generators is laid out in published state dicts.

    Attributes:
        marker: A tensor that every generator of this family has, and no other.
        architecture: Infers the architecture, as JSON values, from names and shapes, the settings of this family that
            tensors cannot tell, and the height and width of images in pixels.
        unread: Returns the prefixes of tensors that the layout keeps for blocks without branches, where nothing reads
            them.
    """

    marker: str
    architecture: Callable[[StateNames, Any, ImageSize], dict[str, Any]]
    unread: Callable[[Any], list[str]]


@dataclass(frozen=True)
class StateNames:
    """A state dict that is being explored."""

    state: Mapping[str, Tensor]
    where: str

    @cached_property
    def modules(self) -> frozenset[str]:
        """The paths of all modules, inner and outer, that hold a tensor."""
        paths = (name.split(".")[:-1] for name in self.state)
        return frozenset(".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1))

    def kernel(self, name: str) -> tuple[int, int, int]:
        """Returns output channels, input channels (per group) and kernel size of a convolution that must be there."""
        if name not in self.state:
            raise UserError(f"{self.where} lacks the tensor {name}.")
        shape = list(self.state[name].shape)
        if len(shape) != 4 or shape[2] != shape[3] or max(shape[:2]) > MAX_CHANNELS or shape[2] > MAX_KERNEL_SIZE:
            raise UserError(
                f"{self.where}: tensor {name} has the shape {shape}, expected that of a square convolution."
            )
        return shape[0], shape[1], shape[2]

    def numbers(self, prefix: str) -> list[int]:
        """Returns 0, 1, … as long as there is a module `<prefix><number>`."""
        return list(itertools.takewhile(lambda number: f"{prefix}{number}" in self.modules, itertools.count()))

    def count(self, prefix: str) -> int:
        """Returns how many modules `<prefix><number>` there are, counting those that hold no tensors between others."""
        numbered = (re.fullmatch(re.escape(prefix) + r"(\d{1,3})", path) for path in self.modules)
        return max((int(match[1]) + 1 for match in numbered if match), default=0)

    def some(self) -> str:
        """Returns a few names for a message."""
        return ", ".join(itertools.islice(self.state, 3)) + (", …" if len(self.state) > 3 else "")

    def norm(self, like: NormConfig, name: str, *, kind: str) -> dict[str, Any]:
        """Returns the configuration of norms such as the one of this name."""
        return like.model_dump() | {
            "kind": kind,
            "affine": f"{name}.weight" in self.state,
            "track_running_stats": f"{name}.running_mean" in self.state,
        }

    def norm_after(self, like: NormConfig, convolution: str, name: str) -> dict[str, Any]:
        """Returns the configuration of norms where convolutions have a bias exactly in front of instance norm."""
        batch = like.kind if like.kind != "instance" else "batch"
        return self.norm(like, name, kind="instance" if f"{convolution}.bias" in self.state else batch)


PublishedBranches = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""Kernel size and hidden channels of the residual-conv and of the depthwise branches that exist, in order."""


def read_branches(
    names: StateNames, prefix: str, *, residual_convolution: str, depthwise_convolution: str
) -> PublishedBranches:
    """Reads off the convolution that shows a branch's kernel size; its output channels are the hidden ones."""
    found: PublishedBranches = ([], [])
    for branches, path, convolution in zip(
        found, ("res_ops", "dw_ops"), (residual_convolution, depthwise_convolution), strict=True
    ):
        for number in names.numbers(f"{prefix}.{path}."):
            weight = f"{prefix}.{path}.{number}.{convolution}.weight"
            hidden, _, kernel_size = names.kernel(weight if weight in names.state else f"{weight}_orig")
            branches.append((kernel_size, hidden))
    return found


def common_kernel_sizes(blocks: list[PublishedBranches], where: str) -> tuple[int, ...]:
    """Returns every kernel size in the one order that all blocks keep to."""
    sequences = [[kernel_size for kernel_size, _ in branches] for block in blocks for branches in block]
    order = TopologicalSorter[int]()
    for size in sorted(set(itertools.chain(*sequences))):
        order.add(size)
    for sequence in sequences:
        for earlier, later in itertools.pairwise(sequence):
            order.add(later, earlier)
    try:
        return tuple(order.static_order())
    except CycleError as error:
        raise UserError(
            f"{where}: blocks hold the kernel sizes {sorted(set(error.args[1]))} in differing orders."
        ) from error


def branch_channels(branches: PublishedBranches, kernel_sizes: tuple[int, ...]) -> dict[str, list[int]]:
    """Returns the hidden channels of every kernel size as an architecture's `BranchChannels` holds them."""
    return {
        kind: [dict(of_kind).get(kernel_size, 0) for kernel_size in kernel_sizes]
        for kind, of_kind in zip(("res", "dw"), branches, strict=True)
    }


def settings_of(family: type[SettingsType], like: Section) -> SettingsType:
    """Returns the settings of a family that agree with a section, or an architecture, where both have the same one."""
    shared = set(family.model_fields) - {"family", "base_channels", "num_layers"}
    return family.model_validate(like.model_dump(include=shared))
