"""Fills networks with weights that come from a file, after checking that they fit."""

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from components.catlib.errors import UserError

Network = TypeVar("Network", bound=nn.Module)


def build_with_state(build: Callable[[], Network], state: Mapping[str, Tensor], *, where: str) -> Network:
    """Builds a network with the given weights, in eval mode on the CPU; nothing is allocated unless all of them fit.

    Args:
        build: Makes the network with any weights.
        state: Its state dict.
        where: What to call `state` in a message.

    Raises:
        UserError: As for `check_state`.
    """
    with torch.device("meta"):
        expected = build().state_dict()
    check_state(state, expected, where=where)
    network = build()
    network.load_state_dict(state)
    return network.eval()


def with_batch_counters(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Adds the counters of batches that norms of old PyTorch did not keep; with a momentum nothing reads them."""
    counters = {
        name.replace(".running_mean", ".num_batches_tracked"): torch.zeros((), dtype=torch.int64)
        for name in state
        if name.endswith(".running_mean")
    }
    return counters | dict(state)


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor], *, where: str) -> None:
    """Checks that a state dict is what a network expects.

    Args:
        state: What was read.
        expected: The state dict of such a network; its tensors may be on the meta device.
        where: What to call `state` in a message.

    Raises:
        UserError: Names the first tensor that is missing, has another shape or type, is not finite, or is not known.
    """
    for name, tensor in expected.items():
        if name not in state:
            raise UserError(f"{where} lacks the tensor {name} ({_describe(tensor)}).")
        found = state[name]
        if found.shape != tensor.shape or found.dtype != tensor.dtype:
            raise UserError(f"{where}: tensor {name} is {_describe(found)}, expected {_describe(tensor)}.")
        if not torch.isfinite(found).all():
            raise UserError(f"{where}: tensor {name} holds NaN or infinity.")
    for name in state:
        if name not in expected:
            raise UserError(f"{where} holds the tensor {name}, which such a network does not have.")


def _describe(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"
