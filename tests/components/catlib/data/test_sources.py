import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.catlib.config import DatasetConfig
from components.catlib.data.cityscapes import cityscapes_train_ids
from components.catlib.data.files import folder_tree
from components.catlib.data.samples import Collection, SampleList, UnusableImageError
from components.catlib.data.sources import open_tree
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import cityscapes, noise, write


def make(folder: Path, *files: str, width: int = 8) -> Path:
    for seed, file in enumerate(files):
        write(folder / file, noise(seed, width=width))
    return folder


def open_in(folder: Path, **settings: Any) -> Collection:
    return open_tree(DatasetConfig(**settings), folder_tree(folder, where=str(folder)), {"source": "here"})


def names(lists: Sequence[SampleList]) -> list[list[str]]:
    return [[sample.name for sample in one.samples] for one in lists]


def test_images_side_by_side(tmp_path: Path):
    folder = make(tmp_path, "train/b.png", "train/a.png", "test/c.png", width=16)
    found = open_in(folder)
    assert (found.pairing, names(found.train), names(found.test)) == ("paired", [["a", "b"]], [["c"]])
    images = found.test[0].samples[0].load()
    assert np.array_equal(np.hstack([np.asarray(images[role]) for role in ("source", "target")]), noise(2, width=16))


def test_the_direction_decides_which_half_is_the_source(tmp_path: Path):
    folder = make(tmp_path, "train/a.png", "val/c.png", width=16)
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


@pytest.mark.parametrize(("fraction", "expected"), [(0.0, [0, 0, 0]), (0.01, [1, 2, 2]), (0.99, [1, 2, 4])])
def test_at_least_two_images_are_held_out_and_one_kept(tmp_path: Path, fraction: float, expected: list[int]):
    held_out = []
    for count in (2, 3, 5):
        folder = make(tmp_path / str(count), *(f"{domain}/{index}.png" for domain in "AB" for index in range(count)))
        held_out.append(len(names(open_in(folder, test_fraction=fraction).test)[0]))
    assert held_out == expected


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


def test_cityscapes_labels(tmp_path: Path):
    found = open_in(cityscapes(tmp_path), num_labels=35)
    assert (found.pairing, found.has_instances, names(found.test)) == ("labels", True, [["bonn/bonn_1"]])
    assert found.provenance == {"source": "here", "layout": "cityscapes", "split": "folders train and val"}
    images = found.test[0].samples[0].load()
    assert (np.asarray(images["instances"]) == 1000 * np.asarray(images["source"]).astype(int)).all()
    assert np.array_equal(np.asarray(images["target"]), noise(1, 4, 8))


@pytest.mark.parametrize("direction", ["AtoB", "BtoA"])
def test_cityscapes_colours(tmp_path: Path, direction: str):
    found = open_in(cityscapes(tmp_path), direction=direction)
    images = found.train[0].samples[0].load()
    photo, colours = ("source", "target") if direction == "AtoB" else ("target", "source")
    assert (found.pairing, set(images)) == ("paired", {"source", "target"})
    assert np.array_equal(np.asarray(images[photo]), noise(0, 4, 8))
    assert np.array_equal(np.asarray(images[colours]), noise(100, 4, 8))


@pytest.mark.parametrize("num_labels", [None, 35])
def test_cityscapes_has_its_scored_classes_where_images_are_held_out(tmp_path: Path, num_labels: int | None):
    found = open_in(cityscapes(tmp_path), num_labels=num_labels)
    ids = np.random.default_rng(1).integers(0, 34, (4, 8))
    scored = np.asarray(found.test[0].samples[0].load()["ground_truth"])
    assert np.array_equal(scored, cityscapes_train_ids(ids))
    assert "ground_truth" not in found.train[0].roles


def test_cityscapes_without_val_holds_images_out_with_their_classes(tmp_path: Path):
    cityscapes(tmp_path, names=["a/1", "b/2"])
    for kind in ("leftImg8bit", "gtFine"):
        shutil.rmtree(tmp_path / kind / "val")
    found = open_in(tmp_path, num_labels=35)
    assert sorted(names(found.train)[0] + names(found.test)[0]) == ["a/1", "b/2"]
    assert "ground_truth" in found.test[0].roles


def test_cityscapes_archives_may_be_unpacked_each_into_a_folder_of_its_own(tmp_path: Path):
    whole = open_in(cityscapes(tmp_path / "whole"), num_labels=35)
    for kind in ("leftImg8bit", "gtFine"):
        (tmp_path / f"apart/{kind}_trainvaltest").mkdir(parents=True)
        (tmp_path / "whole" / kind).rename(tmp_path / f"apart/{kind}_trainvaltest/{kind}")
    apart = open_in(tmp_path / "apart", num_labels=35)
    assert (
        (names(apart.train), names(apart.test))
        == (names(whole.train), names(whole.test))
        == (
            [["bonn/bonn_1"]],
            [["bonn/bonn_1"]],
        )
    )
    assert apart.provenance["layout"] == "cityscapes"
    assert apart.has_instances
    make(tmp_path / "apart/more/gtFine/train/bonn", "bonn_1_gtFine_labelIds.png")
    with pytest.raises(UserError, match="known layout"):
        open_in(tmp_path / "apart")


def test_a_folder_around_everything_is_passed_over(tmp_path: Path):
    make(tmp_path / "horse2zebra-main" / "horse2zebra", "trainA/1.png", "trainB/2.png")
    make(tmp_path / "__MACOSX", "trainA/._1.png")
    assert names(open_in(tmp_path, test_fraction=0).train) == [["1"], ["2"]]


def test_two_folders_of_other_names_are_domains_in_the_order_of_the_alphabet(tmp_path: Path):
    make(tmp_path, "maps/train/1.png", "maps/test/2.png", "photos/train/1.png", "photos/test/2.png")
    found = open_in(tmp_path, direction="BtoA")
    assert (found.pairing, names(found.train), names(found.test)) == ("paired", [["1"]], [["2"]])
    assert found.provenance["domains"] == {"A": "maps", "B": "photos"}
    assert np.array_equal(np.asarray(found.train[0].samples[0].load()["target"]), noise(0))


def test_two_folders_may_also_be_unpaired(tmp_path: Path):
    make(tmp_path, "horses/1.png", "horses/2.png", "zebras/7.png")
    assert names(open_in(tmp_path, layout="unpaired", test_fraction=0).train) == [["1", "2"], ["7"]]
    with pytest.raises(UserError, match=r"holds no pair: .* set dataset\.layout: unpaired"):
        open_in(tmp_path)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["A/a.png", "A/b.png", "B/a.png"], "A/b.png: no partner named 'b' among the target images"),
        (["A/a.png", "B/a.png", "B/c.png"], "B/c.png: no partner named 'c' among the source images"),
        (
            ["A/train/a.png", "B/train/a.png", "A/test/b.png"],
            "A/test/b.png: no partner named 'b' among the target images of the split test",
        ),
    ],
)
def test_images_without_a_partner_are_listed(tmp_path: Path, files: list[str], message: str):
    found = open_in(make(tmp_path, *files), test_fraction=0)
    assert names(found.train) == [["a"]]
    (left_out,) = found.without_partner
    assert f"{left_out.file}: {left_out.reason}".endswith(message)


@pytest.mark.parametrize(
    ("files", "settings", "message"),
    [
        ([], {}, "holds no images in a known layout .found: nothing."),
        (["x/a.png", "y/a.png", "z/a.png"], {}, "found: x, y, z"),
        (["A/a.png"], {}, "no images of domain B"),
        (["A/a.png", "B/b.png"], {}, "holds no pair: .*A/a.png has no partner named 'a' among the target images"),
        (["leftImg8bit/train/a.png", "x/b.png"], {"layout": "cityscapes"}, "no images in gtFine/"),
        (["leftImg8bit/train/a.png", "gtFine/train/a.png"], {}, "no images with the names of its layout, cityscapes"),
        (["trainA/a.png"], {}, "no images of domain B; put them into B/, trainB/ or B/train/"),
        (["a.png"], {"layout": "unpaired"}, "no images of domain A"),
        (["a.png"], {"num_labels": 3}, "num_labels needs label maps .* laid out as single"),
    ],
)
def test_mistakes_in_a_folder_are_named(tmp_path: Path, files: list[str], settings: dict[str, Any], message: str):
    with pytest.raises(UserError, match=message):
        open_in(make(tmp_path, *files), **settings)


def test_an_empty_folder_counts_as_missing(tmp_path: Path):
    make(tmp_path, "trainA/a.png")
    (tmp_path / "trainB").mkdir()
    with pytest.raises(UserError, match="no images of domain B"):
        open_in(tmp_path)


def test_partners_of_different_sizes_are_named_when_they_are_read(tmp_path: Path):
    write(tmp_path / "A/x.png", noise(0, 4, 6))
    write(tmp_path / "B/x.png", noise(0, 4, 5))
    sample = open_in(tmp_path).train[0].samples[0]
    with pytest.raises(UnusableImageError, match=r"A/x\.png: has size .* 6×4, but its partner is .*B/x\.png 5×4"):
        sample.load()
