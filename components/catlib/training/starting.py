"""An earlier teacher, with whose weights a teacher starts (`teacher.start_from`), for example to fine-tune it.

It is an artifact of the teacher stage, or a file with a published generator. The recipe must describe the same
networks; only what no weight depends on may differ: dropout, and the size of the images.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from components.catlib.artifacts import file_sha256
from components.catlib.config import DiscriminatorConfig, GeneratorConfig, StartConfig, TeacherConfig
from components.catlib.networks.alike import check_alike, check_earlier
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
            check_alike("generator", found, wanted, like, address=self.address, earlier=self._settings("generator"))
        else:
            found = self.networks.architectures.generator(direction)
            check_alike("generator", found, wanted, like, address=self.address, earlier=self._settings("generator"))
            earlier = read_generator(self.networks, direction, alone=False)
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
        check_alike("discriminator", found, wanted, like, address=self.address, earlier=self._settings("discriminator"))
        state = read_discriminator(self.networks, direction.output).state_dict()
        return build_with_state(lambda: build_discriminator(wanted), state, where=str(self.place))

    def _settings(self, role: str) -> Mapping[str, Any]:
        return self.networks.manifest.config.get(role, {}) if self.networks else {}

    def _fresh(self, what: str) -> None:
        logger.warning("teacher.start_from %s holds no %s: a fresh one is used", shown(self.address), what)


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
    check_earlier(start, config, networks)
    return EarlierTeacher(start.uri, networks.manifest.digest(), folder, networks)
