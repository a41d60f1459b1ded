"""Published discriminators: what one is built from is inferred from the names and shapes of its tensors."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from components.catlib.config import DiscriminatorConfig, PatchConfig, PixelConfig, validate
from components.catlib.errors import UserError
from components.catlib.networks.discriminator_architecture import DiscriminatorArchitecture
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.published.names import StateNames, settings_of
from components.catlib.networks.published.reading import read_state_dict
from components.catlib.networks.state_dicts import build_with_state, with_batch_counters


def load_discriminator(
    path: Path, *, like: DiscriminatorConfig | DiscriminatorArchitecture, sha256: str | None = None
) -> Discriminator:
    """Reads a published discriminator, in eval mode on the CPU.

    Args:
        path: A `.pth` file.
        like: Supplies what tensors cannot tell: momentum and epsilon of norms, and batch or sync-batch norm.
        sha256: Expected digest of the file.

    Raises:
        UserError: The file is not such a network, or not the expected file; the message names the reason.
    """
    return discriminator_from_state(read_state_dict(path, sha256=sha256), like=like, where=str(path))


def discriminator_from_state(
    state: Mapping[str, Tensor], *, like: DiscriminatorConfig | DiscriminatorArchitecture, where: str
) -> Discriminator:
    """Builds the discriminator that a state dict belongs to, with its weights, in eval mode.

    Args:
        state: float32 tensors by published name, int64 batch counters.
        like: As for `load_discriminator`.
        where: What to call the state dict in a message.

    Raises:
        UserError: Names what is missing, unexpected or not finite.
    """
    names = StateNames(state, where)
    if "model.0.weight" in state:
        settings = _patch_settings(names, settings_of(PatchConfig, like))
    elif "net.0.weight" in state:
        settings = _pixel_settings(names, settings_of(PixelConfig, like))
    elif "discriminator_0.model0.0.weight" in state:
        settings = _multiscale_settings(names)
    else:
        raise UserError(
            f"{where} is not a discriminator: it has none of model.0.weight, net.0.weight and "
            f"discriminator_0.model0.0.weight but {names.some()}."
        )
    architecture = validate(DiscriminatorArchitecture, settings, where=f"{where} is not a discriminator")
    return build_with_state(lambda: build_discriminator(architecture), with_batch_counters(state), where=where)


def _patch_settings(names: StateNames, like: PatchConfig) -> dict[str, Any]:
    width, in_channels, _ = names.kernel("model.0.weight")
    positions = [int(name.split(".")[1]) for name in names.state if re.fullmatch(r"model\.\d{1,3}\.weight", name)]
    return {
        "family": "patch",
        "in_channels": in_channels,
        "base_channels": width,
        "num_layers": (max(positions) - 2) // 3,
        "norm": names.norm_after(like.norm, "model.2", "model.3"),
    }


def _pixel_settings(names: StateNames, like: PixelConfig) -> dict[str, Any]:
    width, in_channels, _ = names.kernel("net.0.weight")
    return {
        "family": "pixel",
        "in_channels": in_channels,
        "base_channels": width,
        "norm": names.norm_after(like.norm, "net.2", "net.3"),
    }


def _multiscale_settings(names: StateNames) -> dict[str, Any]:
    width, in_channels, _ = names.kernel("discriminator_0.model0.0.weight")
    return {
        "family": "multiscale",
        "in_channels": in_channels,
        "base_channels": width,
        "num_layers": len(names.numbers("discriminator_0.model")) - 1,
        "num_scales": len(names.numbers("discriminator_")),
    }
