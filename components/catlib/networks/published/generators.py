"""Reads published generators: the names and shapes of their tensors give the architecture.

The recipe supplies what they do not show: padding, dropout, activation, batch or sync-batch norm, and sizes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from components.catlib.config import GeneratorConfig, validate
from components.catlib.errors import UserError
from components.catlib.networks.families import FAMILIES, AnyArchitecture, Architecture, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.published.names import StateNames, settings_of
from components.catlib.networks.published.reading import read_state_dict
from components.catlib.networks.state_dicts import build_with_state, with_batch_counters


def load_generator(
    path: Path, *, like: GeneratorConfig | Architecture, input_size: tuple[int, int], sha256: str | None = None
) -> Generator:
    """Reads a published generator, teacher or student, in eval mode on the CPU.

    Args:
        path: A `.pth` file.
        like: Supplies what tensors do not show: padding, dropout, activation, momentum and epsilon of norms, batch or
            sync-batch norm, and for SPADE the number of up-sampling layers and the kind of norms without statistics.
        input_size: Height, width in pixels of the images it is used for; a SPADE generator makes images of this size.
        sha256: Expected digest of the file; None accepts any.

    Raises:
        UserError: The file is not a generator, or not the expected file; the message gives the reason.
    """
    state = read_state_dict(path, sha256=sha256)
    return generator_from_state(state, like=like, input_size=input_size, where=str(path))


def generator_from_state(
    state: Mapping[str, Tensor], *, like: GeneratorConfig | Architecture, input_size: tuple[int, int], where: str
) -> Generator:
    """Builds the generator that a state dict belongs to, with its weights, in eval mode.

    The published layout keeps tensors for blocks without branches, where nothing reads them; these are dropped.

    Args:
        state: float32 tensors by published name, int64 batch counters.
        like: Supplies what tensors do not show, as for `load_generator`.
        input_size: Height, width in pixels of the images it is used for.
        where: Name of the state dict in messages.

    Raises:
        UserError: A tensor is missing, unexpected or not finite; the message names it.
    """
    names = StateNames(state, where)
    layouts = [(family.config, family.published) for family in FAMILIES if family.published]
    found = next(((config, layout) for config, layout in layouts if layout.marker in state), None)
    if found is None:
        markers = " nor ".join(layout.marker for _, layout in layouts)
        raise UserError(
            f"{where} is not a generator: it has neither {markers} but {names.some()}{_known_otherwise(state)}."
        )
    config, layout = found
    described = layout.architecture(names, settings_of(config, like), input_size)
    architecture = validate(AnyArchitecture, described, where=f"{where} is not a generator")
    unread = tuple(layout.unread(architecture))
    read = {name: value for name, value in state.items() if not name.startswith(unread)}
    return build_with_state(lambda: build_generator(architecture), with_batch_counters(read), where=where)


def _known_otherwise(state: Mapping[str, Tensor]) -> str:
    """Returns what a state dict is that is no generator of a family here, and what to do."""
    if any(".conv_block." in name for name in state):
        kind = "a ResNet generator of pytorch-CycleGAN-and-pix2pix"
    elif any(name.startswith("model.model.1.model.") for name in state):
        kind = "a U-Net generator of pytorch-CycleGAN-and-pix2pix"
    elif any(name.startswith(("head_0.conv_0", "G_middle_0.conv_0")) for name in state):
        kind = "a generator of SPADE itself"
    else:
        return "; give a generator that CAT published, or leave the setting out to train one"
    return (
        f"; it is {kind}, whose blocks have no branches to prune; leave the setting out to train a teacher on your "
        "images, or give a generator that CAT published"
    )
