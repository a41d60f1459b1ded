"""What is wrong with images is named from what the dataset stage records of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from components.catlib.diagnosis.causes import LEAKED_TEST_SPLIT, SWAPPED_DOMAINS, UNLABELLED_CLASS, Cause, Diagnosis
from components.catlib.diagnosis.datasets import diagnose_dataset
from tests.components.catlib.data.image_folders import noise, pack_folder, write

COUNTS = {"train": 12, "test": 6}
SIDE = 16


def diagnoses(folder: Path, **settings: Any) -> list[Diagnosis]:
    packed = pack_folder(folder / "data", folder / "packed", load_size=SIDE, crop_size=SIDE, **settings)
    return diagnose_dataset(json.loads((packed.folder / "report.json").read_text()), packed.manifest.summary)


def causes(folder: Path, **settings: Any) -> list[Cause]:
    return [each.cause for each in diagnoses(folder, **settings)]


def pictures(folder: Path, *, swapped: str = "", same: bool = False) -> None:
    """Writes dark pictures as A and bright ones as B, the other way round in the split `swapped`."""
    for split, count in COUNTS.items():
        for index in range(count):
            seed = index + (0 if same else 100 * len(split))
            dark, bright = noise(seed, SIDE, SIDE) // 2, 128 + noise(1000 + seed, SIDE, SIDE) // 2
            first, second = (bright, dark) if split == swapped else (dark, bright)
            write(folder / f"data/{split}A/{index}.png", first)
            write(folder / f"data/{split}B/{index}.png", second)


def label_maps(folder: Path, change: Callable[[np.ndarray, str], np.ndarray] = lambda labels, _: labels) -> None:
    """Writes label maps of four classes, changed by split."""
    for split, count in COUNTS.items():
        for index in range(count):
            picture = noise(index + 100 * len(split), SIDE, SIDE)
            write(folder / f"data/{split}A/{index}.png", change(picture[..., 0] // 64, split))
            write(folder / f"data/{split}B/{index}.png", picture)


@pytest.mark.parametrize("layout", ["parallel", "unpaired"])
def test_images_in_order_get_no_diagnosis(tmp_path: Path, layout: str):
    pictures(tmp_path)
    assert causes(tmp_path, layout=layout) == []


@pytest.mark.parametrize("layout", ["parallel", "unpaired"])
@pytest.mark.parametrize("swapped", ["train", "test"])
def test_domains_that_change_places_between_the_splits_are_named(tmp_path: Path, layout: str, swapped: str):
    pictures(tmp_path, swapped=swapped)
    (diagnosis,) = diagnoses(tmp_path, layout=layout)
    assert diagnosis.cause is SWAPPED_DOMAINS
    assert "images lie 1.00 from those of their own domain in training and 0.05" in diagnosis.evidence


def test_domains_of_equal_colours_are_not_called_swapped(tmp_path: Path):
    for split, count in COUNTS.items():
        for index in range(count):
            for domain in "AB":
                seed = index + 100 * len(split) + 1000 * (domain == "B")
                write(tmp_path / f"data/{split}{domain}/{index}.png", noise(seed, SIDE, SIDE))
    assert causes(tmp_path, layout="unpaired") == []


@pytest.mark.parametrize("layout", ["parallel", "unpaired"])
def test_held_out_images_that_are_training_images_are_named_with_their_share(tmp_path: Path, layout: str):
    pictures(tmp_path, same=True)
    (diagnosis,) = diagnoses(tmp_path, layout=layout)
    assert diagnosis.cause is LEAKED_TEST_SPLIT
    assert diagnosis.evidence.startswith("100% of 6 held-out")


def test_every_class_that_occurs_is_well(tmp_path: Path):
    label_maps(tmp_path)
    assert causes(tmp_path, num_labels=4) == []


def test_one_class_of_many_may_be_absent_everywhere(tmp_path: Path):
    label_maps(tmp_path, lambda labels, _: labels * 10 + np.arange(SIDE, dtype=np.uint8) % 10)
    assert causes(tmp_path, num_labels=41) == []


@pytest.mark.parametrize(
    ("change", "evidence"),
    [
        (lambda labels, split: np.where(labels == 2, 255, labels), "have no class"),
        (
            lambda labels, split: np.where((labels == 2) & (split == "train"), 1, labels),
            "1 never occur in training (2)",
        ),
        (lambda labels, split: np.where(labels == 3, 1, labels), "1 never occur in training (3); 0.0% of the held-out"),
    ],
)
def test_a_class_that_training_does_not_see_is_named(
    tmp_path: Path, change: Callable[[np.ndarray, str], np.ndarray], evidence: str
):
    label_maps(tmp_path, change)
    (diagnosis,) = diagnoses(tmp_path, num_labels=4)
    assert diagnosis.cause is UNLABELLED_CLASS
    assert evidence in diagnosis.evidence


def test_pixels_without_a_class_may_have_a_plane_of_their_own(tmp_path: Path):
    label_maps(tmp_path, lambda labels, _: np.where(np.arange(SIDE) < SIDE // 4, 255, labels))
    assert causes(tmp_path, num_labels=4, dont_care_plane=True) == []
