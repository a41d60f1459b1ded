"""Every image of a stranger's tree has a place, or the tree is refused in a sentence that leads on."""

import logging
from pathlib import Path
from typing import Any

import pytest

from components.__main__ import main
from components.catlib.config import DatasetConfig
from components.catlib.data.files import folder_tree
from components.catlib.data.layouts import Meaning, meaning
from components.catlib.data.samples import Collection
from components.catlib.data.sources import open_tree
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, write

NUMBERS = range(4)


def tree(folder: Path, *places: str, width: int = 8) -> Path:
    """Writes a few images into each folder; in `NAME:first`, names begin with that number."""
    for place in places:
        where, _, first = place.partition(":")
        for number in NUMBERS:
            write(folder / where / f"{int(first or 0) + number}.png", noise(number, width=width))
    return folder


def opened(folder: Path, **settings: Any) -> Collection:
    return open_tree(DatasetConfig(**settings), folder_tree(folder, where=str(folder)), {})


def counts(found: Collection) -> dict[str, list[int]]:
    lists = {"train": found.train, "test": found.test}
    return {split: [len(one.samples) for one in samples] for split, samples in lists.items()}


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("train", ("train", None)),
        ("Training", ("train", None)),
        ("VALID", ("val", None)),
        ("validation", ("val", None)),
        ("Testing", ("test", None)),
        ("eval", ("test", None)),
        ("trainA", ("train", "A")),
        ("train_B", ("train", "B")),
        ("testing-a", ("test", "A")),
        ("A_train", ("train", "A")),
        ("b", (None, "B")),
        ("domainA", (None, "A")),
        ("train_label", ("train", "A")),
        ("val_img", ("val", "B")),
        ("test_inst", ("test", "instances")),
        ("train_instances", ("train", "instances")),
        ("trains", (None, None)),
        ("atrain", (None, None)),
        ("contest", (None, None)),
        ("AB", (None, None)),
    ],
)
def test_names_of_folders_have_a_meaning(folder: str, expected: Meaning):
    assert meaning(folder) == expected


PAIRED, UNPAIRED = {"train": [4], "test": [4]}, {"train": [4, 4], "test": [4, 4]}


@pytest.mark.parametrize(
    ("places", "layout", "expected"),
    [
        ("train/source train/target test/source test/target", "parallel", PAIRED),
        ("Train/input Train/output VALID/input VALID/output", "parallel", PAIRED),
        ("source/train target/train source/test target/test", "parallel", PAIRED),
        ("A/trainA A/testA B/trainB B/testB", "unpaired", UNPAIRED),
        ("train/trainA train/trainB test/testA test/testB", "unpaired", UNPAIRED),
        ("training_A training_B testing_A testing_B", "unpaired", UNPAIRED),
        ("A/Train B/Train A/Valid B/Valid", "parallel", PAIRED),
        ("outer/data/trainA outer/data/trainB outer/data/valA outer/data/valB", "unpaired", UNPAIRED),
        ("train/2020/may test/2020/june", "combined", PAIRED),
        ("train valid", "combined", PAIRED),
        ("TRAIN EVAL", "combined", PAIRED),
        ("horses/one zebras/two", "parallel", None),
    ],
)
def test_every_image_of_these_trees_is_used(
    tmp_path: Path, places: str, layout: str, expected: dict[str, list[int]] | None, caplog: pytest.LogCaptureFixture
):
    folder = tree(tmp_path, *places.split(), width=16)
    if expected is None:
        with pytest.raises(UserError, match=r"holds no pair: .* set dataset\.layout: unpaired"):
            opened(folder)
        assert counts(opened(folder, layout="unpaired")) == {"train": [2, 2], "test": [2, 2]}
        return
    found = opened(folder)
    assert (found.provenance["layout"], counts(found)) == (layout, expected)
    assert "left_over" not in found.provenance
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


@pytest.mark.parametrize(
    ("places", "settings", "message"),
    [
        (
            "train test trainA trainB",
            {},
            "layout unpaired, which has no place for 8 images .*4 images in test/.*in train/",
        ),
        (
            "A B readme",
            {},
            "parallel, which has no place for 4 images .4 images in readme/: not in a folder of a domain",
        ),
        ("A/train B/train A B", {}, "8 images .4 images in A/: beside the folders of splits; 4 images in B/"),
        ("train/x train/y test/x test/y more", {}, "4 images in more/: not in a folder of a domain"),
        ("train test extra", {}, "4 images in extra/: beside the folders of splits"),
        ("trainA trainB .:9", {}, "4 images at the top: not in a folder of a domain"),
        ("trainA trainB instances", {}, ""),
        ("A/train/test B/train", {}, "4 images in A/train/test/: its folders contradict each other"),
        ("A/2020/train B/train", {}, "4 images in A/2020/train/: its folder train/ is a split, but lies too deep"),
        ("trainA trainB horse2zebra/trainA", {}, "the folders horse2zebra/ and trainA/ both name a domain"),
        ("train Train valid", {}, "two folders of train A|B images, Train/ and train/; keep one"),
        ("A/train trainA B/train", {}, "two folders of train A images"),
        ("horses zebras .:9", {}, "holds images beside folders of images .horses, zebras.; .* dataset.layout: single"),
        ("train/x train/y:9", {}, "without equal names in them; set dataset.layout: unpaired .* or combined"),
        ("x y z", {}, "no images in a known layout .found: x, y, z."),
    ],
)
def test_what_has_no_place_is_refused_by_folder_and_count(
    tmp_path: Path, places: str, settings: dict[str, Any], message: str
):
    folder = tree(tmp_path, *places.split())
    if not message:
        assert opened(folder, **settings).provenance["left_over"][0]["folder"] == "instances"
        return
    with pytest.raises(UserError, match=message.replace("|", r"\|")):
        opened(folder, **settings)


@pytest.mark.parametrize(
    ("places", "layout", "left", "used"),
    [
        ("train test trainA trainB", "unpaired", {"test": 4, "train": 4}, 8),
        ("train test trainA trainB", "combined", {"trainA": 4, "trainB": 4}, 8),
        ("A B readme", "parallel", {"readme": 4}, 4),
        ("trainA trainB .:9", "unpaired", {".": 4}, 8),
    ],
)
def test_a_chosen_layout_says_what_it_leaves_out(
    tmp_path: Path, places: str, layout: str, left: dict[str, int], used: int, caplog: pytest.LogCaptureFixture
):
    found = opened(tree(tmp_path, *places.split()), layout=layout)
    assert {one["folder"]: one["count"] for one in found.provenance["left_over"]} == left
    assert sum(map(sum, counts(found).values())) == used
    for folder, count in left.items():
        assert f"left out {count} images {'at the top' if folder == '.' else f'in {folder}/'}: " in caplog.text


def test_a_validation_split_beside_a_test_split_is_named(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    found = opened(tree(tmp_path, "train", "valid", "test", width=16))
    assert counts(found) == PAIRED
    assert "left out 4 images in valid/: the test images are held out instead" in caplog.text
    assert found.provenance["left_over"][0]["folder"] == "valid"


def test_advice_that_names_a_layout_leads_on(tmp_path: Path):
    folder = tree(tmp_path, "train/x", "train/y:9")
    assert opened(folder, layout="unpaired").provenance["domains"] == {"A": "x", "B": "y"}
    assert sum(counts(opened(folder, layout="combined"))["train"]) > 0
    assert counts(opened(tree(tmp_path / "b", "horses", ".:9"), layout="single"))["test"] == [8, 0]


def test_spade_has_folders_of_its_own(tmp_path: Path):
    for split in ("train", "test"):
        for number in NUMBERS:
            write(tmp_path / f"{split}_label/{number}.png", [[1, 2]])
            write(tmp_path / f"{split}_inst/{number}.png", [[7, 8]])
            write(tmp_path / f"{split}_img/{number}.jpg", noise(number, 1, 2))
    found = opened(tmp_path, num_labels=3)
    assert (found.pairing, found.has_instances, counts(found)) == ("labels", True, PAIRED)


@pytest.mark.parametrize(("first", "second"), [("before", "after"), ("labels", "images"), ("masks", "jpgs")])
def test_two_folders_say_by_their_names_which_is_the_source(tmp_path: Path, first: str, second: str):
    assert opened(tree(tmp_path, second, first)).provenance["domains"] == {"A": first, "B": second}


# --------------------------------------------------------------------------------------------------------- A|B images


def command(folder: Path, *arguments: str) -> list[str]:
    small = ["--set", "dataset.load_size=[8,8]", "--set", "dataset.crop_size=[8,8]"]
    return ["dataset", "--recipe", "smoke", "--source", str(folder), *small, *arguments]


def test_single_pictures_are_not_halved(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tree(tmp_path / "data", "train", width=16)
    tree(tmp_path / "data", "test", width=8)
    output = ["--output", str(tmp_path / "out")]
    assert main(command(tmp_path / "data", *output)) == 2
    refused = capsys.readouterr().err
    assert "4 images cannot be used: " in refused
    assert "test/0.png (is 8×8 (width×height), no wider than high, for two images side by side)" in refused
    assert "; set dataset.layout: combined if each does show two images, or single if " in refused
    assert main(command(tmp_path / "data", "--set", "dataset.layout=combined", *output)) == 0
    warned = capsys.readouterr().err
    assert (
        "the halves of 4 A|B images have other proportions than those of most, for example 0 of test with 4×8" in warned
    )


def test_a_dry_run_says_what_would_be_used_as_what(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    tree(tmp_path / "data", "train/source", "train/target", "valid/source", "valid/target", "preview")
    assert main(command(tmp_path / "data", "--set", "dataset.layout=parallel", "--dry-run")) == 0
    assert capsys.readouterr().out.splitlines() == [
        "paired, laid out as parallel; folders train and val",
        "domain A: source/",
        "domain B: target/",
        "train: 4 as source and target, such as 0",
        "test: 4 as source and target, such as 0",
        "left out: 4 images in preview/: not in a folder of a domain",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert main(command(tmp_path / "data")) == 2
    assert "--output is missing" in capsys.readouterr().err
