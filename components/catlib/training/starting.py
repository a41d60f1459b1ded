"""An earlier teacher, with whose weights a teacher starts (`teacher.start_from`), for example to fine-tune it.

It is an artifact of the teacher stage, or a file with a published generator. The recipe must describe the same
networks; only what no weight depends on may differ: dropout, and the size of the images.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catlib.artifacts import file_sha256
from components.catlib.config import DiscriminatorConfig, GeneratorConfig, StartConfig, TeacherConfig
from components.catlib.errors import UserError
from components.catlib.networks.architecture_files import OpenedNetworks, open_networks
from components.catlib.networks.directions import Direction
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.discriminators import Discriminator, build_discriminator
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.model_files import read_discriminator, read_generator
from components.catlib.networks.published.generators import load_generator
from components.catlib.networks.published.reading import check_file
from components.catlib.networks.state_dicts import build_with_state
from components.catlib.storage import local_artifact, local_copy, shown

logger = logging.getLogger(__name__)

FREE = {"dropout", "crop_width", "aspect_ratio"}
"""Parts of an architecture on which no weight depends."""

WITHOUT_EFFECT = {"init", "init_gain", "dropout"}
"""Settings of a network that do not count when it starts with earlier weights."""

CHANNELS = {"in_channels", "out_channels", "semantic_channels"}
"""Parts of an architecture that the dataset determines."""

SETTINGS = {"down[0]": "base_channels", "number of blocks": "num_blocks"}
"""Parts of an architecture whose setting has another name."""


@dataclass(frozen=True)
class EarlierTeacher:
    """An earlier teacher on this machine.

    Attributes:
        address: Its address in the recipe.
        digest: SHA-256 of the file, or digest of the artifact.
        place: The file, or the folder of the artifact.
        networks: The opened artifact; None for a file, which holds the generator from source to target.
    """

    address: str
    digest: str
    place: Path
    networks: OpenedNetworks | None

    def pinned(self, config: TeacherConfig) -> TeacherConfig:
        """Returns a teacher's section with the digest of what it starts from."""
        return config.model_copy(update={"start_from": StartConfig(uri=self.address, sha256=self.digest)})

    def generator(
        self, direction: Direction, wanted: Architecture, *, like: GeneratorConfig, crop_size: tuple[int, int]
    ) -> Generator | None:
        """Returns a generator with the earlier weights, in eval mode; None if a file does not hold this direction's.

        Args:
            direction: The generator's direction.
            wanted: The architecture that the recipe asks for.
            like: The recipe's settings, for what the tensors of a file do not show.
            crop_size: Height, width in pixels of the images that it is used for.

        Raises:
            UserError: There is no such generator, its architecture is another one, or its weights cannot be read.
        """
        if self.networks is None:
            if direction is not Direction.SOURCE_TO_TARGET:
                return self._fresh(f"generator {direction}")
            earlier = load_generator(self.place, like=like, input_size=crop_size, sha256=self.digest)
            found = earlier.architecture
            self._check("generator", found, wanted, like)
        else:
            found = self.networks.architectures.generator(direction)
            self._check("generator", found, wanted, like)
            earlier = read_generator(self.networks, direction)
        return build_with_state(lambda: build_generator(wanted), earlier.state_dict(), where=str(self.place))

    def discriminator(
        self, direction: Direction, *, like: DiscriminatorConfig, in_channels: int
    ) -> Discriminator | None:
        """Returns the discriminator of a generator's images with the earlier weights; None if there is none.

        Args:
            direction: The generator's direction.
            like: The recipe's settings of the discriminator.
            in_channels: Channels of the images that it judges.

        Raises:
            UserError: Its architecture is another one, or its weights cannot be read.
        """
        if self.networks is None or direction.output not in self.networks.architectures.discriminators:
            return self._fresh(f"discriminator of {direction.output} images")
        wanted = discriminator_from_config(like, in_channels=in_channels)
        found = self.networks.architectures.discriminator(direction.output)
        self._check("discriminator", found, wanted, like)
        state = read_discriminator(self.networks, direction.output).state_dict()
        return build_with_state(lambda: build_discriminator(wanted), state, where=str(self.place))

    def _fresh(self, what: str) -> None:
        logger.warning("teacher.start_from %s holds no %s: a fresh one is used", shown(self.address), what)

    def _check(
        self,
        role: str,
        found: Any,
        wanted: Any,
        like: GeneratorConfig | DiscriminatorConfig,
    ) -> None:
        """Refuses an earlier network of another architecture."""
        differing = list(_differences(found.model_dump(), wanted.model_dump()))
        if not differing:
            return
        where = f"teacher.start_from {shown(self.address)} holds a {role}"
        for name, there, here in differing:
            if name in CHANNELS:
                raise UserError(
                    f"{where} with {name} {there}, but the dataset asks for {name} {here}; give images with such "
                    "channels, or leave teacher.start_from out."
                )
        settings, earlier = like.model_dump(mode="json"), self.networks.manifest.config if self.networks else {}
        of_settings = [
            each for each in _differences(earlier.get(role, {}), settings) if each[0] not in WITHOUT_EFFECT
        ] or [(name, *values) for path, *values in differing if (name := SETTINGS.get(path, path)) in _paths(settings)]
        name, there, here = (of_settings or differing)[0]
        advice = " and ".join(f"set teacher.{role}.{name}={_written(there)}" for name, there, _ in of_settings)
        raise UserError(
            f"{where} with {name} {_written(there)}, but teacher.{role} describes one with {name} {_written(here)}; "
            f"{advice or f'make teacher.{role} like the earlier one'}, or leave teacher.start_from out."
        )


def open_earlier(config: TeacherConfig) -> EarlierTeacher | None:
    """Brings the earlier teacher of a recipe to this machine; None if the recipe names none.

    Raises:
        UserError: There is nothing at its address, or something else, or another family or digest than expected.
    """
    start = config.start_from
    if start is None:
        return None
    if not start.is_artifact:
        path = local_copy(start.uri)
        check_file(path, sha256=start.sha256)
        return EarlierTeacher(start.uri, file_sha256(path), path, None)
    folder = local_artifact(start.uri, "teacher")
    networks = open_networks(folder, "teacher")
    digest, family = networks.manifest.digest(), networks.manifest.config.get("family", config.family)
    if start.sha256 not in (None, digest):
        raise UserError(
            f"teacher.start_from {shown(start.uri)} has the digest {digest}, expected is {start.sha256}; was it "
            "replaced? Correct teacher.start_from.sha256, or leave it out."
        )
    if family != config.family:
        raise UserError(
            f"teacher.start_from {shown(start.uri)} is a teacher of family {family}, but teacher.family is "
            f"{config.family}; set teacher.family={family}, or leave teacher.start_from out."
        )
    return EarlierTeacher(start.uri, digest, folder, networks)


def _differences(there: Any, here: Any, path: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yields where two descriptions differ: the path to a value such as `norm.kind`, and both values."""
    if isinstance(there, Mapping) and isinstance(here, Mapping):
        for name in [name for name in here if name not in FREE and name in there]:
            yield from _differences(there[name], here[name], f"{path}.{name}".removeprefix("."))
    elif _is_list(there) and _is_list(here) and len(there) != len(here) and not path.startswith("kernel"):
        yield f"number of {path}", len(there), len(here)
    elif _is_list(there) and _is_list(here) and not path.startswith("kernel"):
        for number, (one, other) in enumerate(zip(there, here, strict=True)):
            yield from _differences(one, other, f"{path}[{number}]")
    elif there != here and not (_is_list(there) and _is_list(here) and list(there) == list(here)):
        yield path, there, here


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _paths(settings: Mapping[str, Any], path: str = "") -> set[str]:
    """Returns the paths of all settings of a section."""
    return {
        inner
        for name, value in settings.items()
        for inner in (_paths(value, f"{path}{name}.") if isinstance(value, Mapping) else {f"{path}{name}"})
    }


def _written(value: Any) -> str:
    """Writes a value as `--set` takes it."""
    if _is_list(value):
        return f"[{','.join(map(str, value))}]"
    return str(value).lower() if isinstance(value, bool) else str(value)
