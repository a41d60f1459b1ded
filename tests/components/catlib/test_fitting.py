"""One rule for which images networks fit, whichever stage asks."""

from pathlib import Path

import pytest

from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.fitting import check_channels, check_fits
from components.catlib.networks.architecture_files import OpenedNetworks, write_architecture
from components.catlib.networks.directions import Direction
from tests.components.catlib.networks.architectures import inception
from tests.components.opened import opened
from tests.components.small_trainings import make_dataset

FORWARD, BACKWARD = Direction.SOURCE_TO_TARGET, Direction.TARGET_TO_SOURCE


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """Sources of 5 channels (4 labels and instances), targets of 3, crops of 32x32."""
    return PackedDataset.open(make_dataset(tmp_path_factory.mktemp("labels"), "labels") / "dataset")


def networks(folder: Path, direction: Direction, *, channels: int, size: tuple[int, int] = (32, 32)) -> OpenedNetworks:
    write_architecture(folder, direction, inception().model_copy(update={"in_channels": channels}), size)
    return opened(folder)


@pytest.mark.parametrize(("direction", "channels"), [(FORWARD, 5), (BACKWARD, 3)])
def test_channels_are_those_of_the_images_that_a_generator_reads(
    labels: PackedDataset, tmp_path: Path, direction: Direction, channels: int
) -> None:
    check_fits(networks(tmp_path, direction, channels=channels), labels, direction)
    other = networks(tmp_path, direction, channels=7)
    found = rf"{direction} .* takes 7 channels, but dataset .* has {channels} in its {direction.input} images"
    for check in (check_fits, check_channels):
        with pytest.raises(UserError, match=found):
            check(other, labels, direction)


def test_images_of_another_size_are_refused_unless_only_channels_count(labels: PackedDataset, tmp_path: Path) -> None:
    larger = networks(tmp_path, FORWARD, channels=5, size=(64, 48))
    with pytest.raises(UserError, match=r"made for images of 64x48 pixels, but dataset .* has crops of 32x32"):
        check_fits(larger, labels, FORWARD)
    check_channels(larger, labels, FORWARD)


def test_a_generator_that_is_not_there_is_named(labels: PackedDataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no generator target_to_source"):
        check_fits(networks(tmp_path, FORWARD, channels=5), labels, BACKWARD)
