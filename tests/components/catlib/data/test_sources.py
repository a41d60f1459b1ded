from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.catlib.config import DatasetConfig
from components.catlib.data.samples import Collection, SampleList
from components.catlib.data.sources import open_folder
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, write


def make(folder: Path, *files: str) -> Path:
    for seed, file in enumerate(files):
        write(folder / file, noise(seed))
    return folder


def open_in(folder: Path, **settings: Any) -> Collection:
    return open_folder(DatasetConfig(**settings), folder)


def names(lists: Sequence[SampleList]) -> list[list[str]]:
    return [[sample.name for sample in one.samples] for one in lists]


def test_images_side_by_side(tmp_path: Path):
    folder = make(tmp_path, "train/b.png", "train/a.png", "test/c.png")
    found = open_in(folder)
    assert (found.pairing, names(found.train), names(found.test)) == ("paired", [["a", "b"]], [["c"]])
    images = found.test[0].samples[0].load()
    assert np.array_equal(np.hstack([np.asarray(images[role]) for role in ("source", "target")]), noise(2))


def test_the_direction_decides_which_half_is_the_source(tmp_path: Path):
    folder = make(tmp_path, "train/a.png", "val/c.png")
    forth = open_in(folder).test[0].samples[0].load()
    back = open_in(folder, direction="BtoA").test[0].samples[0].load()
    assert (forth["source"], forth["target"]) == (back["target"], back["source"])
    assert forth["source"] != forth["target"]


@pytest.mark.parametrize(
    "pattern", ["A/train B/train A/val B/val", "trainA trainB valA valB", "train/A train/B val/A val/B"]
)
def test_parallel_folders_are_paired_by_name_not_suffix(tmp_path: Path, pattern: str):
    places = pattern.split()
    for place, file in zip(places, ["x.png", "x.jpg", "y.png", "y.bmp"], strict=True):
        make(tmp_path / place, f"city/{file}")
    found = open_in(tmp_path, layout="parallel")
    assert (names(found.train), names(found.test)) == ([["city/x"]], [["city/y"]])
    assert found.train[0].roles == ("source", "target")
    assert found.test_is_paired


def test_flat_parallel_folders_hold_out_a_share_that_new_images_hardly_change(tmp_path: Path):
    for index in range(40):
        make(tmp_path, f"A/{index}.png", f"B/{index}.png")
    found = open_in(tmp_path, test_fraction=0.25)
    (train,), (test,) = names(found.train), names(found.test)
    assert (found.pairing, len(train), len(test)) == ("paired", 30, 10)
    assert sorted(train + test) == sorted(str(index) for index in range(40))
    assert test != sorted(test, key=int)[-10:]
    make(tmp_path, "A/new.png", "B/new.png")
    assert len(set(names(open_in(tmp_path, test_fraction=0.25).test)[0]) ^ set(test)) <= 2


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, 0), (0.01, 1), (0.99, 2)])
def test_at_least_one_image_is_held_out_and_one_kept(tmp_path: Path, fraction: float, expected: int):
    make(tmp_path, *(f"{domain}/{index}.png" for domain in "AB" for index in range(3)))
    assert len(names(open_in(tmp_path, test_fraction=fraction).test)[0]) == expected


def test_unpaired_folders_keep_every_image(tmp_path: Path):
    folder = make(tmp_path, "trainA/1.png", "trainA/2.png", "trainB/x.png", "testA/3.png", "testB/y.png", "testB/z.png")
    found = open_in(folder)
    assert (found.pairing, found.test_is_paired) == ("unpaired", False)
    assert names(found.train) == [["1", "2"], ["x"]]
    assert names(found.test) == [["3"], ["y", "z"]]
    assert [one.roles for one in found.train] == [("source",), ("target",)]
    assert [one.roles for one in open_in(folder, direction="BtoA").train] == [("target",), ("source",)]


def test_test_folders_win_over_val_folders(tmp_path: Path):
    folder = make(tmp_path, "train/a.png", "val/b.png", "test/c.png")
    found = open_in(folder)
    assert names(found.test) == [["c"]]
    assert found.provenance["split"] == "folders train and test"


def test_a_single_folder_is_for_evaluation_only(tmp_path: Path):
    found = open_in(make(tmp_path, "1.png", "2.png", "3.JPG"))
    assert (names(found.train), names(found.test)) == ([[], []], [["1", "2", "3"], []])
    assert not found.test_is_paired


def test_equal_names_with_different_suffixes_stay_apart(tmp_path: Path):
    assert names(open_in(make(tmp_path, "1.png", "1.bmp", "2.png")).test)[0] == ["1.bmp", "1.png", "2"]


def test_hidden_files_and_other_files_are_not_images(tmp_path: Path):
    make(tmp_path, "1.png", ".hidden.png")
    (tmp_path / "notes.txt").write_text("no image")
    assert names(open_in(tmp_path).test)[0] == ["1"]


def test_label_maps_and_instances(tmp_path: Path):
    write(tmp_path / "A/train/x.png", [[1, 2]])
    write(tmp_path / "B/train/x.png", noise(0, 1, 2))
    write(tmp_path / "instances/train/x.png", [[40000, 2]], np.uint16)
    found = open_in(tmp_path, num_labels=3, test_fraction=0)
    assert (found.pairing, found.num_labels, found.has_instances) == ("labels", 3, True)
    images = found.train[0].samples[0].load()
    assert np.asarray(images["source"]).tolist() == [[1, 2]]
    assert np.asarray(images["instances"]).tolist() == [[40000, 2]]
    assert images["target"].mode == "RGB"


def test_label_maps_in_trainA_are_recognised_as_pairs(tmp_path: Path):
    write(tmp_path / "trainA/x.png", [[0]])
    write(tmp_path / "trainB/x.png", noise(0, 1, 1))
    write(tmp_path / "train_instances/x.png", [[9]])
    found = open_in(tmp_path, num_labels=1)
    assert (found.pairing, found.has_instances) == ("labels", True)


def cityscapes(folder: Path) -> Path:
    for split in ("train", "val"):
        write(folder / f"leftImg8bit/{split}/bonn/bonn_1_leftImg8bit.png", noise(1, 2, 4))
        stem = f"gtFine/{split}/bonn/bonn_1_gtFine"
        write(folder / f"{stem}_labelIds.png", np.full((2, 4), 7))
        write(folder / f"{stem}_instanceIds.png", np.full((2, 4), 26001), np.uint16)
        write(folder / f"{stem}_color.png", noise(2, 2, 4))
    return folder


def test_cityscapes_labels(tmp_path: Path):
    found = open_in(cityscapes(tmp_path), num_labels=35)
    assert (found.pairing, found.has_instances, names(found.test)) == ("labels", True, [["bonn/bonn_1"]])
    images = found.test[0].samples[0].load()
    assert [np.asarray(images[role]).max() for role in ("source", "instances")] == [7, 26001]
    assert np.array_equal(np.asarray(images["target"]), noise(1, 2, 4))


def test_cityscapes_colours(tmp_path: Path):
    images = open_in(cityscapes(tmp_path), direction="BtoA").train[0].samples[0].load()
    assert np.array_equal(np.asarray(images["source"]), noise(2, 2, 4))
    assert np.array_equal(np.asarray(images["target"]), noise(1, 2, 4))


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ([], {}, "holds no images in a known layout .found: nothing."),
        (["pictures/a.png"], {}, "found: pictures"),
        (["A/a.png"], {}, "no images of domain B"),
        (["A/a.png", "A/b.png", "B/a.png"], {}, "A/b.png has no partner named 'b' among the target images"),
        (["A/a.png", "B/a.png", "B/c.png"], {}, "B/c.png has no partner named 'c' among the source images"),
        (["A/train/a.png", "B/train/a.png", "A/test/b.png"], {}, "no partner named 'b' .* of the split test"),
        (["trainA/a.png"], {}, "no images of domain B: expected B/, trainB/ or B/train/"),
        (["a.png"], {"layout": "unpaired"}, "no images of domain A"),
        (["a.png"], {"num_labels": 3}, "num_labels needs label maps .* laid out as single"),
    ],
)
def test_mistakes_in_a_folder_are_named(tmp_path: Path, files: list[str], settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        open_in(make(tmp_path, *files), **settings)


def test_an_empty_split_folder_is_named(tmp_path: Path):
    make(tmp_path, "trainA/a.png")
    (tmp_path / "trainB").mkdir()
    with pytest.raises(UserError, match="trainB holds no images"):
        open_in(tmp_path)


def test_what_is_no_folder_is_named(tmp_path: Path):
    with pytest.raises(UserError, match="is no folder"):
        open_in(tmp_path / "nothing")
    with pytest.raises(UserError, match="unpack it first"):
        open_in(write(tmp_path / "a.png", noise(0)))


def test_partners_of_different_sizes_are_named_when_they_are_read(tmp_path: Path):
    write(tmp_path / "A/x.png", noise(0, 4, 6))
    write(tmp_path / "B/x.png", noise(0, 4, 5))
    with pytest.raises(UserError, match=r"A/x\.png 6×4, .*B/x\.png 5×4"):
        open_in(tmp_path).train[0].samples[0].load()
