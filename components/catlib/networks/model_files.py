"""Writes and reads folders of networks: `architecture.json` and one safetensors file of weights per network.

`components.catlib.networks.architecture_files` holds the part that needs no torch.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from components.catlib.config.dataset import PictureRole, ValuesConfig
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import (
    NetworkArchitectures,
    OpenedNetworks,
    discriminator_file,
    generator_file,
    write_architectures,
)
from components.catlib.networks.batch_dependence import one_at_a_time
from components.catlib.networks.directions import Direction, Domain
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.families import build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.state_dicts import build_with_state


def write_networks(
    folder: Path,
    *,
    generators: Mapping[str, nn.Module],
    discriminators: Mapping[str, nn.Module],
    input_size: tuple[int, int],
    values: Mapping[PictureRole, ValuesConfig] | None = None,
) -> None:
    """Writes the architectures and weights of networks into an existing folder.

    Args:
        folder: The folder; a stage gives that of its artifact writer, so that it appears whole or not at all.
        generators: Generators by direction.
        discriminators: Discriminators by the domain that they judge.
        input_size: Height, width in pixels of the images that the networks are made for.
        values: What the numbers of the pictures mean, by domain; None: 8-bit colours.
    """
    described: dict[str, dict[str, object]] = {"generators": {}, "discriminators": {}}
    if values is not None:
        described["values"] = dict(values.items())
    for direction, network in generators.items():
        assert isinstance(network, Generator), type(network)
        described["generators"][direction] = network.architecture
        save_file(_weights(network), generator_file(folder, Direction(direction)))
    for domain, network in discriminators.items():
        assert isinstance(network, Discriminator), type(network)
        described["discriminators"][domain] = network.architecture
        save_file(_weights(network), discriminator_file(folder, Domain(domain)))
    write_architectures(folder, NetworkArchitectures.model_validate({"input_size": input_size, **described}))


def read_generator(
    networks: OpenedNetworks, direction: Direction, device: torch.device | str = "cpu", *, alone: bool = True
) -> Generator:
    """Reads a generator with its weights, in eval mode.

    Args:
        networks: An opened folder.
        direction: The generator's direction.
        device: The device that it is put on.
        alone: Whether it shall compute every image as if it came alone, even if its norms would mix a batch; False
            where it will be trained, or only its weights are wanted.

    Raises:
        UserError: The folder has no such generator, or its weights do not fit its architecture or are not finite; the
            message names the first wrong tensor.
    """
    architecture, path = networks.architectures.generator(direction), generator_file(networks.folder, direction)
    generator = build_with_state(lambda: build_generator(architecture), _read_state(path), where=str(path)).to(device)
    return one_at_a_time(generator, where=str(path)) if alone else generator


def read_discriminator(networks: OpenedNetworks, domain: Domain) -> Discriminator:
    """Reads a discriminator with its weights, in eval mode.

    Args:
        networks: An opened folder.
        domain: The domain that it judges.

    Raises:
        UserError: The folder has no such discriminator, or its weights do not fit its architecture or are not finite;
            the message names the first wrong tensor.
    """
    architecture, path = networks.architectures.discriminator(domain), discriminator_file(networks.folder, domain)
    return build_with_state(lambda: build_discriminator(architecture), _read_state(path), where=str(path))


def _weights(network: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}


def _read_state(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(f"{path} does not exist: the folder describes this network but holds no weights of it.")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise UserError(f"{path} is damaged ({error}); run the stage that wrote it again.") from error
