"""Tells whether an earlier teacher fits the recipe of the one that starts from it (`teacher.start_from`).

The recipe must describe the same networks. Only what no weight depends on may differ: dropout, and the size of images.
Importing this loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal

from components.catlib.config import DiscriminatorConfig, GeneratorConfig, StartConfig, TeacherConfig
from components.catlib.config.dotted import leaves
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import OpenedNetworks
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.layers import ImageSize
from components.catlib.storage import shown

FREE = {"dropout", "crop_width", "aspect_ratio"}
"""Parts of an architecture on which no weight depends."""

WITHOUT_EFFECT = {"init", "init_gain", "dropout"}
"""Settings of a network that do not count when it starts with earlier weights."""

CHANNELS = {"in_channels", "out_channels", "semantic_channels"}
"""Parts of an architecture that the dataset determines."""

SETTINGS = {"down[0]": "base_channels", "number of blocks": "num_blocks"}
"""Parts of an architecture whose setting has another name."""


def check_earlier(start: StartConfig, config: TeacherConfig, networks: OpenedNetworks) -> None:
    """Refuses an artifact of another family, or with another digest than expected.

    Args:
        start: Its address and expected digest.
        config: The recipe's `teacher` section.
        networks: The opened artifact.

    Raises:
        UserError: It is another one.
    """
    digest, family = networks.manifest.digest(), networks.manifest.config.get("family", config.family)
    if start.sha256 not in (None, digest):
        raise UserError(
            f"teacher.start_from {shown(start.uri)} has the digest {digest}, expected is {start.sha256}; "
            "correct teacher.start_from.sha256, or leave it out."
        )
    if family != config.family:
        raise UserError(
            f"teacher.start_from {shown(start.uri)} is a teacher of family {family}, but teacher.family is "
            f"{config.family}; set teacher.family={family}, or leave teacher.start_from out."
        )


def check_earlier_generators(
    start: StartConfig, config: TeacherConfig, networks: OpenedNetworks, crop_size: ImageSize
) -> None:
    """Refuses an artifact whose generators are not those of a recipe; their channels count only once there are images.

    The images have the height and width `crop_size` in pixels; `check_earlier` tells of the other arguments.

    Raises:
        UserError: Family, digest or architecture differ.
    """
    check_earlier(start, config, networks)
    for found in networks.architectures.generators.values():
        wanted = architecture_from_config(
            config.generator, in_channels=found.in_channels, out_channels=found.out_channels, crop_size=crop_size
        )
        settings = networks.manifest.config.get("generator", {})
        check_alike("generator", found, wanted, config.generator, address=start.uri, earlier=settings)


def check_alike(
    role: Literal["generator", "discriminator"],
    found: Any,
    wanted: Any,
    like: GeneratorConfig | DiscriminatorConfig,
    *,
    address: str,
    earlier: Mapping[str, Any],
) -> None:
    """Refuses an earlier network of another architecture.

    Args:
        role: What the network is.
        found: Its architecture.
        wanted: The architecture that the recipe asks for.
        like: The recipe's settings of it.
        address: The address of the earlier teacher, for the message.
        earlier: The settings that the earlier network was made with; empty if they are not known.

    Raises:
        UserError: The architectures differ; the message names both, and what to set.
    """
    differing = list(_differences(found.model_dump(mode="json"), wanted.model_dump(mode="json")))
    if not differing:
        return
    where = f"teacher.start_from {shown(address)} holds a {role}"
    for name, there, here in differing:
        if name in CHANNELS:
            raise UserError(
                f"{where} with {name} {there}, but the dataset asks for {name} {here}; give images with such "
                "channels, or leave teacher.start_from out."
            )
    settings = like.model_dump(mode="json")
    of_settings = [each for each in _differences(earlier, settings) if each[0] not in WITHOUT_EFFECT] or [
        (name, *values) for path, *values in differing if (name := SETTINGS.get(path, path)) in dict(leaves(settings))
    ]
    name, there, here = (of_settings or differing)[0]
    advice = " and ".join(f"set teacher.{role}.{name}={_written(there)}" for name, there, _ in of_settings)
    raise UserError(
        f"{where} with {name} {_written(there)}, but teacher.{role} describes one with {name} {_written(here)}; "
        f"{advice or f'make teacher.{role} like the earlier one'}, or leave teacher.start_from out."
    )


def _differences(there: Any, here: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields where two descriptions, as JSON values, differ: the path, such as `norm.kind`, and both values."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in [name for name in here if name not in FREE and name in there]:
            yield from _differences(there[name], here[name], f"{path}.{name}".removeprefix("."))
    elif isinstance(there, list) and isinstance(here, list) and path != "kernel_sizes":
        if len(there) != len(here):
            yield f"number of {path}", len(there), len(here)
        for number, (one, other) in enumerate(zip(there, here, strict=False)):
            yield from _differences(one, other, f"{path}[{number}]")
    elif there != here:
        yield path, there, here


def _written(value: Any) -> str:
    """Writes a value as `--set` takes it."""
    if isinstance(value, list):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
