"""What the report of a packed dataset says."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.catlib.data.colours import label_colours
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, pack_folder, write
from tests.components.catlib.data.test_duplicates import scene


def report(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text())


def test_sizes_and_brightness_are_counted(tmp_path: Path):
    for index, (height, width) in enumerate([(8, 8), (8, 8), (10, 16)]):
        write(tmp_path / f"data/trainA/{index}.png", np.full((height, width, 3), (0, 128, 255), dtype=np.uint8))
        write(tmp_path / f"data/trainB/{index}.png", noise(index))
    pack_folder(tmp_path / "data", tmp_path / "packed", test_fraction=0)
    source = report(tmp_path / "packed")["images"]["train"]["source"]
    assert (source["count"], source["sizes"]) == (3, {"8×8": 2, "16×10": 1})
    peaks = {channel: np.argmax(shares) for channel, shares in source["histogram"].items()}
    assert peaks == {"red": 0, "green": 16, "blue": 31}
    assert all(len(shares) == 32 and sum(shares) == pytest.approx(1) for shares in source["histogram"].values())
    assert report(tmp_path / "packed")["images"]["test"]["source"] == {"count": 0, "sizes": {}}


def test_classes_are_counted(tmp_path: Path):
    write(tmp_path / "data/A/x.png", [[0, 2], [255, 2]])
    write(tmp_path / "data/B/x.png", noise(0, 2, 2))
    sizes = {"load_size": 2, "crop_size": 2, "test_fraction": 0}
    pack_folder(tmp_path / "data", tmp_path / "packed", num_labels=3, **sizes)
    source = report(tmp_path / "packed")["images"]["train"]["source"]
    assert (source["classes"], source["no_class"]) == ([0.25, 0, 0.5], 0.25)
    picture = np.asarray(Image.open(tmp_path / "packed/samples.webp").convert("RGB"))
    assert picture.shape == (4, 2, 3)
    assert np.abs(picture[0, 0].astype(int) - label_colours(3)[0]).max() < 100


def test_held_out_images_that_occur_in_training_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    for split, seeds in (("train", range(6)), ("test", (10, 4, 11))):
        for seed in seeds:
            write(tmp_path / f"data/{split}A/{seed}.png", np.asarray(scene(seed, 100)))
            write(tmp_path / f"data/{split}B/{seed}.png", np.asarray(scene(50 + seed + (split == "test"))))
    (tmp_path / "data/testA/4.png").rename(tmp_path / "data/testA/copy.png")
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", load_size=72, crop_size=64)
    expected = [{"role": "source", "test": "copy", "train": "4"}, {"role": "target", "test": "4", "train": "5"}]
    assert report(tmp_path / "packed")["duplicates"] == {"count": 2, "first": expected}
    assert packed.summary.metrics["duplicate_images"] == 2
    assert (
        "2 held-out images also occur among the training images, for example copy (test) and 4 (train)" in caplog.text
    )


def test_what_was_left_out_is_listed(tmp_path: Path):
    write(tmp_path / "data/1.png", noise(0))
    write(tmp_path / "data/2.png", noise(0)).write_bytes(b"no image")
    pack_folder(tmp_path / "data", tmp_path / "packed", on_error="skip")
    (left_out,) = report(tmp_path / "packed")["left_out"]
    assert left_out["file"].endswith("data/2.png")
    assert left_out["reason"] == "not an image of a known kind, or its beginning is damaged"


def test_samples_are_spread_over_the_data_and_their_partners_stand_below_them(tmp_path: Path):
    for split, count in (("train", 30), ("test", 2)):
        for index in range(count):
            pair = np.full((200, 200, 3), index * 8, dtype=np.uint8)
            pair[:, 100:] = 255 - index * 8
            write(tmp_path / f"data/{split}/{index:02}.png", pair)
    pack_folder(tmp_path / "data", tmp_path / "packed", load_size=256, crop_size=128, layout="combined")
    picture = np.asarray(Image.open(tmp_path / "packed/samples.webp").convert("RGB")).astype(int)
    assert picture.shape == (4 * 128, 8 * 128, 3)
    first, last = (picture[row * 128 + 64, [64, 7 * 128 + 64], 0] for row in (0, 1))
    assert np.abs(first - [0, 29 * 8]).max() <= 2
    assert np.abs(last - [255, 255 - 29 * 8]).max() <= 2


# ------------------------------------------------------------------------------------------------------------- warnings


def pack_labels(folder: Path, labels: list[list[int]], num_labels: int) -> list[str]:
    for number in range(3):
        write(folder / f"data/A/{number}.png", labels)
        write(folder / f"data/B/{number}.png", noise(number, 2, 2))
    pack_folder(folder / "data", folder / "packed", num_labels=num_labels, load_size=2, crop_size=2)
    return report(folder / "packed")["warnings"]


@pytest.mark.parametrize(
    ("labels", "num_labels", "message"),
    [
        ([[0, 255], [255, 0]], 2, "hold only class 0, and 50% of their pixels have the label 255"),
        ([[1, 1], [1, 1]], 3, "hold only class 1, and 0% of"),
        ([[255, 255], [255, 255]], 2, "hold none, and 100%"),
    ],
)
def test_masks_of_one_class_are_refused(tmp_path: Path, labels: list[list[int]], num_labels: int, message: str):
    with pytest.raises(UserError, match=message):
        pack_labels(tmp_path, labels, num_labels)
    assert not (tmp_path / "packed").exists()


def test_classes_that_never_occur_are_warned_of(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    found = pack_labels(tmp_path, [[0, 2], [255, 255]], 4)
    assert found == ["of 4 classes, these never occur in training label maps: 1, 3"]
    assert found[0] in caplog.text
    found = pack_labels(tmp_path / "b", [[0, 1], [255, 255]], 2)
    assert found == []


@pytest.mark.parametrize(("largest", "expected"), [(1023, 1023), (4095, 4095), (16383, 16383)])
def test_few_bits_in_sixteen_are_warned_of_with_the_setting_that_helps(tmp_path: Path, largest: int, expected: int):
    random = np.random.default_rng(0)
    for number in range(3):
        for domain in "AB":
            values = random.integers(0, largest + 1, (8, 8)) | (random.random((8, 8)) < 0.1) * largest
            write(tmp_path / f"data/train{domain}/{number}.png", values, np.uint16)
    dark = pack_folder(tmp_path / "data", tmp_path / "dark", test_fraction=0)
    source, target = (found for found in report(tmp_path / "dark")["warnings"] if "grey levels; if" in found)
    assert "of the source pictures for training is " in source
    assert f"set dataset.target_values to {{channels: 1, range: [0, {expected}]}} with their largest" in target
    stated = {f"{role}_values": {"channels": 1, "range": (0, expected)} for role in ("source", "target")}
    bright = pack_folder(tmp_path / "data", tmp_path / "bright", test_fraction=0, **stated)
    assert report(tmp_path / "bright")["warnings"] == []
    assert len(np.unique(bright.split("train").source)) > 4 * len(np.unique(dark.split("train").source)) / 2


def test_a_constant_channel_is_warned_of(tmp_path: Path):
    for number in range(2):
        for domain in "AB":
            picture = noise(number)
            picture[..., 2] = 7
            write(tmp_path / f"data/train{domain}/{number}.png", picture)
    pack_folder(tmp_path / "data", tmp_path / "packed", test_fraction=0)
    assert report(tmp_path / "packed")["warnings"] == [
        f"the blue of all {role} pictures for training is constant" for role in ("source", "target")
    ]
