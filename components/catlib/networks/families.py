"""The families of generators: the one list of their settings, their architectures and their networks.

A family is a folder here. It holds an architecture (a `GeneratorArchitecture`), a network (a `Generator`) and, if
weights of it were published, their layout. Importing this loads no torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

from pydantic import Field

from components.catlib.config import Section
from components.catlib.config.networks import GeneratorConfig, InceptionConfig, InceptionSpadeConfig
from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.inception.architecture import InceptionArchitecture
from components.catlib.networks.inception.published import INCEPTION_LAYOUT
from components.catlib.networks.layers import ImageSize
from components.catlib.networks.published.names import PublishedLayout
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture
from components.catlib.networks.spade.published import INCEPTION_SPADE_LAYOUT

if TYPE_CHECKING:
    from components.catlib.networks.generator import Generator

Architecture = InceptionArchitecture | InceptionSpadeArchitecture
"""The architecture of a generator of any family."""

AnyArchitecture = Annotated[Architecture, Field(discriminator="family")]
"""The same for pydantic, which reads `family` first and reports errors of that family only."""


class Family(NamedTuple):
    """A family of generators.

    Attributes:
        config: Class of its settings in a recipe.
        architecture: Class of the architecture that the settings describe.
        published: Layout of published weights; None if none were published.
    """

    config: type[Section]
    architecture: type[GeneratorArchitecture]
    published: PublishedLayout | None = None


FAMILIES = (
    Family(InceptionConfig, InceptionArchitecture, INCEPTION_LAYOUT),
    Family(InceptionSpadeConfig, InceptionSpadeArchitecture, INCEPTION_SPADE_LAYOUT),
)


def build_generator(architecture: Architecture) -> Generator:
    """Builds a generator, teacher or student, with torch's default initialisation, on the current default device."""
    from components.catlib.networks.inception.generator import InceptionGenerator
    from components.catlib.networks.spade.generator import InceptionSpadeGenerator

    match architecture:
        case InceptionArchitecture():
            return InceptionGenerator(architecture)
        case InceptionSpadeArchitecture():
            return InceptionSpadeGenerator(architecture)


def architecture_from_config(
    config: GeneratorConfig, *, in_channels: int, out_channels: int, crop_size: ImageSize
) -> Architecture:
    """Returns the architecture of an unpruned generator.

    Args:
        config: The recipe's generator section.
        in_channels: Channels of the source image, or of the semantic tensor.
        out_channels: Channels of the target image.
        crop_size: Height and width of the images in pixels.

    Raises:
        UserError: The images do not fit the generator's up-sampling.
    """
    family = next(family for family in FAMILIES if isinstance(config, family.config))
    made: Any = family.architecture.from_config(
        config, in_channels=in_channels, out_channels=out_channels, crop_size=crop_size
    )
    return made
