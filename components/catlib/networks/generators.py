"""Builds the network that an architecture describes."""

from components.catlib.networks.architecture import Architecture, InceptionArchitecture, InceptionSpadeArchitecture
from components.catlib.networks.inception import InceptionGenerator
from components.catlib.networks.spade import InceptionSpadeGenerator

Generator = InceptionGenerator | InceptionSpadeGenerator


def build_generator(architecture: Architecture) -> Generator:
    """Builds a generator, teacher or student, with torch's default initialisation, on the current default device."""
    match architecture:
        case InceptionArchitecture():
            return InceptionGenerator(architecture)
        case InceptionSpadeArchitecture():
            return InceptionSpadeGenerator(architecture)
