"""The families of generators: the one list of their architectures, and how they are made and read."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from components.catlib.config import GeneratorConfig, InceptionConfig, InceptionSpadeConfig
from components.catlib.errors import UserError
from components.catlib.networks.inception.architecture import InceptionArchitecture, inception_architecture
from components.catlib.networks.layers import Size
from components.catlib.networks.spade.architecture import InceptionSpadeArchitecture, spade_architecture

Architecture = InceptionArchitecture | InceptionSpadeArchitecture
"""Any generator; `family` tells which."""

_ADAPTER: TypeAdapter[Architecture] = TypeAdapter(Annotated[Architecture, Field(discriminator="family")])


def parse_architecture(value: Any) -> Architecture:
    """Reads an architecture from JSON values, as `architecture.model_dump(mode="json")` makes them.

    Raises:
        UserError: Not an architecture; the first wrong field is named.
    """
    try:
        return _ADAPTER.validate_python(value)
    except ValidationError as error:
        complaint = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in complaint["loc"])
        message = complaint["msg"].removeprefix("Value error, ")
        raise UserError(f"Not a generator architecture: {where + ': ' if where else ''}{message}.") from error


def architecture_from_config(
    config: GeneratorConfig, *, in_channels: int, out_channels: int, crop_size: Size
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
    match config:
        case InceptionConfig():
            return inception_architecture(config, in_channels=in_channels, out_channels=out_channels)
        case InceptionSpadeConfig():
            return spade_architecture(config, in_channels, out_channels, crop_size)
