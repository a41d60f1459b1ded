"""Reads a network's architecture off the names and shapes in a published state dict.

Only shapes are read, so importing this loads no torch.
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
"""Larger convolutions are refused, because a few stored bytes can claim any shape."""

SettingsType = TypeVar("SettingsType", bound=Section)


class PublishedLayout(NamedTuple):
    """How a family of generators is laid out in published state dicts.

    Attributes:
        marker: A tensor that every generator of this family has, and no other.
        architecture: Returns the architecture as JSON values. It takes names and shapes, a family's settings that
            supply what tensors do not show, and the height and width of images in pixels.
        unread: Returns name prefixes of the tensors that nothing reads; the layout keeps them for blocks without
            branches.
    """

    marker: str
    architecture: Callable[[StateNames, Any, ImageSize], dict[str, Any]]
    unread: Callable[[Any], list[str]]


@dataclass(frozen=True)
class StateNames:
    """The names and shapes in a published state dict.

    Attributes:
        state: The state dict.
        where: Its name in messages.
    """

    state: Mapping[str, Tensor]
    where: str

    @cached_property
    def modules(self) -> frozenset[str]:
        """The paths of all modules, inner and outer, that hold a tensor."""
        paths = (name.split(".")[:-1] for name in self.state)
        return frozenset(".".join(path[:depth]) for path in paths for depth in range(1, len(path) + 1))

    def kernel(self, name: str) -> tuple[int, int, int]:
        """Returns output channels, input channels (per group) and kernel size in pixels of a convolution.

        Raises:
            UserError: The tensor is missing, or not of a square convolution within the limits on size.
        """
        if name not in self.state:
            raise UserError(f"{self.where} lacks the tensor {name}.")
        shape = list(self.state[name].shape)
        if len(shape) != 4 or shape[2] != shape[3] or max(shape[:2]) > MAX_CHANNELS or shape[2] > MAX_KERNEL_SIZE:
            raise UserError(
                f"{self.where}: tensor {name} has the shape {shape}, expected that of a square convolution."
            )
        return shape[0], shape[1], shape[2]

    def numbers(self, prefix: str) -> list[int]:
        """Returns 0, 1, … up to the first number without a module `<prefix><number>`."""
        return list(itertools.takewhile(lambda number: f"{prefix}{number}" in self.modules, itertools.count()))

    def count(self, prefix: str) -> int:
        """Returns the number of modules `<prefix><number>`; those without tensors count where others follow."""
        numbered = (re.fullmatch(re.escape(prefix) + r"(\d{1,3})", path) for path in self.modules)
        return max((int(match[1]) + 1 for match in numbered if match), default=0)

    def some(self) -> str:
        """Returns a few names for a message."""
        return ", ".join(itertools.islice(self.state, 3)) + (", …" if len(self.state) > 3 else "")

    def norm(self, like: NormConfig, name: str, *, kind: str) -> dict[str, Any]:
        """Returns the configuration of norms that hold the same tensors as the norm of this name."""
        return like.model_dump() | {
            "kind": kind,
            "affine": f"{name}.weight" in self.state,
            "track_running_stats": f"{name}.running_mean" in self.state,
        }

    def norm_after(self, like: NormConfig, convolution: str, name: str) -> dict[str, Any]:
        """Returns the configuration of norms, for networks whose convolutions have a bias only before instance norm."""
        batch = like.kind if like.kind != "instance" else "batch"
        return self.norm(like, name, kind="instance" if f"{convolution}.bias" in self.state else batch)


PublishedBranches = tuple[list[tuple[int, int]], list[tuple[int, int]]]
"""Kernel size and hidden channels of the residual-conv and of the depthwise branches that exist, in order."""


def read_branches(
    names: StateNames, prefix: str, *, residual_convolution: str, depthwise_convolution: str
) -> PublishedBranches:
    """Reads kernel sizes and hidden channels of the branches of a block.

    Args:
        names: The state dict.
        prefix: Module path of the block.
        residual_convolution: Path within a residual-conv branch of the convolution that has the kernel size, and the
            hidden channels as output.
        depthwise_convolution: The same for a depthwise branch.

    Raises:
        UserError: Such a tensor is missing, or not of a square convolution.
    """
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
    """Returns every kernel size once, in the order that all blocks follow.

    Raises:
        UserError: Two blocks have them in different orders.
    """
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
    """Returns a family's settings; fields shared with another section, or an architecture, take the values there."""
    shared = set(family.model_fields) - {"family", "base_channels", "num_layers"}
    return family.model_validate(like.model_dump(include=shared))
