"""What an error says to do is tried, and leads past the error."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from components.__main__ import main
from tests.components.catlib.data.image_folders import cityscapes, noise, write

SMALL = ["--set", "dataset.load_size=[32,32]", "--set", "dataset.crop_size=[32,32]"]
TEACHER = {"epochs": 1, "decay_epochs": 0, "evaluations": 0, "batch_size": 2}


def images(folder: Path, *places: str, first: int = 0) -> None:
    for place in places:
        for number in range(first, first + 4):
            write(folder / place / f"{number}.png", noise(number, 32, 32))


def dataset(folder: Path, *settings: str) -> int:
    changes = [word for setting in settings for word in ("--set", setting)]
    places = ["--source", str(folder / "data"), "--output", str(folder / "dataset")]
    return main(["dataset", "--recipe", "smoke", *places, *SMALL, *changes])


def teacher(folder: Path, *settings: str) -> int:
    changes = [f"teacher.{name}={value}" for name, value in TEACHER.items()] + list(settings)
    inputs = ["--dataset", str(folder / "dataset"), "--real-stats", str(folder / "statistics")]
    return main([
        "teacher", "--recipe", "smoke", *inputs, "--output", str(folder / "teacher"),
        *(word for change in changes for word in ("--set", change)),
    ])  # fmt: skip


def single_pictures(folder: Path) -> None:
    images(folder, "train", "test")


def no_partners(folder: Path) -> None:
    images(folder, "A")
    images(folder, "B", first=10)


def two_folders_in_splits(folder: Path) -> None:
    images(folder, "train/a1", "test/a1")
    images(folder, "train/b1", "test/b1", first=10)


def both_ways(folder: Path) -> None:
    images(folder, "trainA", "trainB", "testA", "testB", "train", "test")


def photos_beside_folders(folder: Path) -> None:
    images(folder, "horses", "zebras", ".")


def too_many_classes(folder: Path) -> None:
    images(folder, "B")
    for number in range(4):
        write(folder / f"A/{number}.png", np.arange(32 * 32).reshape(32, 32) % 7)


def twelve_bits(folder: Path) -> None:
    for place in ("trainA", "trainB", "testA", "testB"):
        for number in range(4):
            random = np.random.default_rng(number)
            write(folder / place / f"{number}.png", random.integers(0, 4096, (32, 32)), np.uint16)


def damaged(folder: Path) -> None:
    images(folder, "A", "B")
    (folder / "A/3.png").write_bytes(b"no image")


def follow(said: str) -> list[str]:
    """Returns the settings that a message names, as `--set` takes them."""
    return [f"{name}={value}" for name, value in re.findall(r"set ([a-z_.]+\w)(?::| to) ([\w\[\],-]+)", said)]


@pytest.mark.parametrize(
    ("make", "settings", "advised"),
    [
        (single_pictures, [], "dataset.layout=combined"),
        (no_partners, [], "dataset.layout=unpaired"),
        (two_folders_in_splits, [], "dataset.layout=unpaired"),
        (both_ways, [], "dataset.layout=unpaired"),
        (photos_beside_folders, [], "dataset.layout=single"),
        (damaged, [], "dataset.on_error=skip"),
    ],
)
def test_a_setting_that_the_dataset_stage_names_leads_on(
    make: Callable[[Path], None],
    settings: list[str],
    advised: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    make(tmp_path / "data")
    assert dataset(tmp_path, *settings) == 2
    found = follow(capsys.readouterr().err)
    assert found[0] == advised
    assert dataset(tmp_path, *settings, found[0]) == 0


def test_the_number_of_classes_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    too_many_classes(tmp_path / "data")
    assert dataset(tmp_path, "dataset.num_labels=3") == 2
    assert "set dataset.num_labels to the number of classes (7 or more)" in capsys.readouterr().err
    assert dataset(tmp_path, "dataset.num_labels=7") == 0


def test_the_range_that_is_named_keeps_every_level(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    twelve_bits(tmp_path / "data")
    assert dataset(tmp_path) == 0
    said = capsys.readouterr().err
    advised = re.findall(r"set (dataset\.\w+_values) to (\{.*?\}) with their largest value", said)
    assert {setting for setting, _ in advised} == {"dataset.source_values", "dataset.target_values"}
    assert {values for _, values in advised} == {"{channels: 1, range: [0, 4095]}"}
    assert dataset(tmp_path, *(f"{setting}={values}" for setting, values in advised)) == 0
    assert "grey levels" not in capsys.readouterr().err


@pytest.mark.parametrize("change", ["dataset.layout=unpaired", ""])
def test_label_maps_are_never_sent_to_the_unpaired_layout(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], change: str
):
    too_many_classes(tmp_path / "data")
    for path in (tmp_path / "data/A").iterdir():
        path.rename(path.with_stem(f"{path.stem}_labels"))
    assert dataset(tmp_path, "dataset.num_labels=7", *filter(None, [change])) == 2
    assert "set dataset.layout: unpaired" not in capsys.readouterr().err


def test_coloured_label_maps_are_not_to_be_repaired(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    images(tmp_path / "data", "A", "B")
    assert dataset(tmp_path, "dataset.num_labels=7") == 2
    said = capsys.readouterr().err
    assert "must have one channel, but this image has the mode RGB" in said
    assert "; replace the colours by numbers, one per class or instance, in grey or palette images, or set " in said
    assert "repair" not in said


def test_cityscapes_with_other_maps_only(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for path in cityscapes(tmp_path / "data", size=(32, 64)).rglob("*_labelIds.png"):
        path.rename(path.with_name(path.name.replace("labelIds", "labelTrainIds")))
    assert dataset(tmp_path, "dataset.num_labels=19") == 2
    said = capsys.readouterr().err
    assert "/gtFine has no maps that end in _gtFine_labelIds.png, which hold the classes; " in said
    assert "remove dataset.num_labels to use the colours" in said
    assert dataset(tmp_path) == 0


@pytest.fixture
def statistics(tmp_path: Path) -> Callable[[], None]:
    def make() -> None:
        arguments = ["--dataset", str(tmp_path / "dataset"), "--output", str(tmp_path / "statistics")]
        assert main(["real-stats", "--recipe", "smoke", *arguments]) == 0

    return make


def test_names_that_are_equal_on_both_sides_are_taken_for_partners(
    tmp_path: Path, statistics: Callable[[], None], capsys: pytest.CaptureFixture[str]
):
    images(tmp_path / "data", "trainA", "trainB", "testA", "testB")
    assert dataset(tmp_path) == 0
    statistics()
    assert teacher(tmp_path) == 2
    said = capsys.readouterr().err
    assert follow(said), said
    (advised,) = follow(said)
    assert advised == "dataset.layout=parallel"
    assert dataset(tmp_path, advised) == 0
    statistics()
    assert teacher(tmp_path) == 0


def test_a_batch_that_is_too_large_names_the_setting_of_its_stage(
    tmp_path: Path, statistics: Callable[[], None], capsys: pytest.CaptureFixture[str]
):
    images(tmp_path / "data", "A/train", "B/train", "A/test", "B/test")
    assert dataset(tmp_path) == 0
    statistics()
    assert teacher(tmp_path, "teacher.batch_size=80") == 2
    said = capsys.readouterr().err
    assert follow(said), said
    (advised,) = follow(said)
    assert advised == "teacher.batch_size=4"
    assert teacher(tmp_path, advised) == 0
