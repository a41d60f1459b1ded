"""Reads one thing out of a folder: a network, whether or not a stage has written a manifest there, or statistics."""

from pathlib import Path
from typing import Any

from components.catlib.artifacts import Manifest
from components.catlib.metrics.statistics import RealStatistics, open_statistics
from components.catlib.networks import model_files
from components.catlib.networks.architecture_files import OpenedNetworks, read_architectures
from components.catlib.networks.discriminators import Discriminator
from components.catlib.networks.generator import Generator


def opened(folder: Path) -> OpenedNetworks:
    """Opens a folder as if a stage had written it."""
    manifest = Manifest(kind="teacher", code_digest="", config={}, inputs={}, summary={}, files={})
    return OpenedNetworks(folder, manifest, read_architectures(folder))


def has_weights(folder: Path, direction: Any) -> bool:
    return opened(folder).has_weights(direction)


def read_generator(folder: Path, direction: Any, *, alone: bool = True) -> Generator:
    return model_files.read_generator(opened(folder), direction, alone=alone)


def read_discriminator(folder: Path, domain: Any) -> Discriminator:
    return model_files.read_discriminator(opened(folder), domain)


def read_statistics(folder: Path, direction: Any) -> RealStatistics:
    return open_statistics(folder).read(direction)
