"""Builds the network that an architecture describes."""

from components.catlib.networks.families import Architecture
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.inception.generator import InceptionGenerator
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture
from components.catlib.networks.spade.generator import InceptionSpadeGenerator

Generator = InceptionGenerator | InceptionSpadeGenerator


def build_generator(architecture: Architecture) -> Generator:
    """Builds a generator, teacher or student, with torch's default initialisation, on the current default device."""
    match architecture:
        case InceptionArchitecture():
            return InceptionGenerator(architecture)
        case InceptionSpadeArchitecture():
            return InceptionSpadeGenerator(architecture)
