"""Reads and writes folders of networks without loading torch: architectures, and generator weights as arrays.

`architecture.json` describes every network of a folder; `generator_<direction>.safetensors` and
`discriminator_<domain>.safetensors` beside it hold the weights. A student that starts from fresh weights is an
`architecture.json` alone. A stage opens such a folder once, with `open_networks`, and passes on the result.
`components.catlib.networks.model_files` reads and writes the networks themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import Field
from pydantic_core import from_json
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from components.catlib.artifacts import Manifest, read_manifest
from components.catlib.config import RGB, Count, Section, ValuesConfig, validate
from components.catlib.config.dataset import PictureRole
from components.catlib.errors import UserError
from components.catlib.networks.directions import Direction, Domain
from components.catlib.networks.discriminator_architecture import DiscriminatorArchitecture
from components.catlib.networks.families import AnyArchitecture, Architecture

ARCHITECTURE_FILE = "architecture.json"


class NetworkArchitectures(Section):
    """The content of `architecture.json`."""

    input_size: tuple[Count, Count] = Field(description="height, width in pixels of the images they are made for")
    values: dict[PictureRole, ValuesConfig] = Field(
        default={"source": RGB, "target": RGB},
        description="what the numbers of pictures mean that networks see as -1 to 1; label maps have none",
    )
    generators: dict[Direction, AnyArchitecture] = Field(description="by direction; a student's folder has one")
    discriminators: dict[Domain, DiscriminatorArchitecture] = Field(
        description="by the domain whose images they judge; none beside an untrained student"
    )

    def generator(self, direction: Direction) -> Architecture:
        """Returns the architecture of a generator.

        Raises:
            UserError: There is none for this direction; the message names those that exist.
        """
        if direction not in self.generators:
            raise UserError(f"There is no generator {direction}; there is: {', '.join(self.generators) or 'none'}.")
        return self.generators[direction]

    def discriminator(self, domain: Domain) -> DiscriminatorArchitecture:
        """Returns the architecture of a discriminator.

        Raises:
            UserError: None judges images of this domain; the message names the domains that are judged.
        """
        if domain not in self.discriminators:
            known = ", ".join(self.discriminators) or "none"
            raise UserError(f"There is no discriminator that judges {domain} images; discriminators judge: {known}.")
        return self.discriminators[domain]


@dataclass(frozen=True)
class OpenedNetworks:
    """An opened folder of networks: its content is known, and its weights are read when they are needed.

    Attributes:
        folder: The folder that holds the weights.
        manifest: The artifact's manifest.
        architectures: The architecture of every network.
    """

    folder: Path
    manifest: Manifest
    architectures: NetworkArchitectures

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels of the images that the networks are made for."""
        return self.architectures.input_size

    @property
    def direction(self) -> Direction:
        """The direction of its generator; of two generators (CycleGAN), source to target.

        Raises:
            UserError: There is no generator.
        """
        if not self.architectures.generators:
            raise UserError(f"{self.folder} holds no generator; give the output of the distill or the teacher stage.")
        return min(self.architectures.generators)

    @property
    def only_direction(self) -> Direction:
        """The direction of a student's generator.

        Raises:
            UserError: The number of generators is not one.
        """
        if len(self.architectures.generators) != 1:
            raise UserError(
                f"{self.folder} describes {len(self.architectures.generators)} generators, expected one student."
            )
        return self.direction

    @property
    def values(self) -> dict[PictureRole, ValuesConfig]:
        """What the numbers of the pictures mean that the networks were trained on."""
        return self.architectures.values

    def has_weights(self, direction: Direction) -> bool:
        """Returns whether the folder holds this generator's weights, not only its architecture."""
        return generator_file(self.folder, direction).is_file()


def open_networks(folder: Path, kinds: str) -> OpenedNetworks:
    """Opens a folder of networks.

    Args:
        folder: An artifact of the stage teacher, prune or distill.
        kinds: The expected kind; "teacher|distill" accepts either.

    Raises:
        UserError: The folder is no such artifact, lacks files, or has a damaged `architecture.json`.
    """
    manifest = read_manifest(folder, kinds)
    return OpenedNetworks(folder, manifest, read_architectures(folder))


def generator_file(folder: Path, direction: Direction) -> Path:
    """Returns the path of a generator's weights."""
    return folder / f"generator_{direction}.safetensors"


def discriminator_file(folder: Path, domain: Domain) -> Path:
    """Returns the path of a discriminator's weights."""
    return folder / f"discriminator_{domain}.safetensors"


def write_architectures(folder: Path, architectures: NetworkArchitectures) -> None:
    """Writes `architecture.json` into an existing folder."""
    text = architectures.model_dump_json(indent=1) + "\n"
    (folder / ARCHITECTURE_FILE).write_text(text, encoding="utf-8")


def write_architecture(
    folder: Path,
    direction: Direction,
    architecture: Architecture,
    input_size: tuple[int, int],
    weights: Mapping[str, np.ndarray] | None = None,
    values: Mapping[PictureRole, ValuesConfig] | None = None,
) -> None:
    """Writes one generator: its architecture and, if given, its weights.

    Args:
        folder: An existing folder.
        direction: The generator's direction.
        architecture: The generator's architecture.
        input_size: Height, width in pixels of the images it is made for.
        weights: The generator's state dict as arrays; None if it starts from fresh weights.
        values: What the numbers of the pictures mean, by domain; None: 8-bit colours.
    """
    described = {"input_size": input_size, "generators": {direction: architecture}, "discriminators": {}}
    known = {} if values is None else {"values": values}
    write_architectures(folder, NetworkArchitectures.model_validate(described | known))
    if weights is not None:
        arrays = {name: np.asarray(array, order="C") for name, array in weights.items()}
        save_file(arrays, generator_file(folder, direction))


def read_architectures(folder: Path) -> NetworkArchitectures:
    """Reads which networks a folder describes.

    Raises:
        UserError: `architecture.json` is missing or invalid; the message names the first wrong field.
    """
    path = folder / ARCHITECTURE_FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist; expected a folder that the stages teacher, prune or distill wrote.")
    try:
        content = from_json(path.read_bytes())
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}); run the stage that wrote it again.") from error
    return validate(NetworkArchitectures, content, where=str(path))


def read_generator_weights(networks: OpenedNetworks, direction: Direction) -> dict[str, np.ndarray]:
    """Reads the state dict of a generator as arrays: float32, and int64 for the batch counters of norms.

    Raises:
        UserError: The folder has no weights of this generator, the file is damaged, or a number in it is not finite.
    """
    path = generator_file(networks.folder, direction)
    if not path.is_file():
        raise UserError(f"{path} does not exist: {networks.folder} holds no weights of the generator {direction}.")
    try:
        weights = load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: a number format that numpy does not have
        raise UserError(f"{path} is damaged ({error}); run the stage that wrote it again.") from error
    for name, array in weights.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: tensor {name} holds NaN or infinity; was the training that wrote it unstable?")
    return weights
