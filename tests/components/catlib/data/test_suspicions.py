"""What the dataset stage says about channels that look mislabelled, and about small sets; and what it does not say."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.catlib.config import RGB
from components.catlib.data.inspection import ImageFacts, Inspection
from components.catlib.data.packed import ImageRole, Pairing, SplitName
from components.catlib.data.suspicions import ALPHA, about_numbers

Pixels = np.ndarray
COUNT = 12


def scene(seed: int, tint: tuple[int, int, int] = (30, 0, -30)) -> Pixels:
    """A smooth picture of random colours with more red than blue: uint8 [32, 32, 3]."""
    small = np.random.default_rng(seed).integers(60, 196, (4, 4, 3)) + np.array(tint)
    return np.asarray(Image.fromarray(small.astype(np.uint8)).resize((32, 32), Image.Resampling.BICUBIC))


def grey(seed: int) -> Pixels:
    return scene(seed)[..., 1:2].repeat(3, axis=2)


def inspect(pairing: Pairing = "paired", **pictures: Callable[[int], Pixels | Image.Image]) -> list[str]:
    """Returns what is suspicious in `COUNT` pictures each, such as `train_source`, by their numbers."""
    inspection = Inspection(None, pairing=pairing)
    for name, make in pictures.items():
        split, role = name.split("_")
        for number in range(COUNT):
            made = make(number)
            original = made if isinstance(made, Image.Image) else Image.fromarray(made)
            facts = ImageFacts.of(np.asarray(original.resize((24, 24))), original, RGB)
            inspection.add(split, str(number), {role: facts})  # type: ignore[arg-type, dict-item]
    return inspection.warnings()


def translated(picture: Pixels) -> Pixels:
    """Another domain with the same content: darker and bluer."""
    return (picture * np.array([0.6, 0.7, 0.9])).astype(np.uint8)


NOTHING_WRONG: dict[str, dict[str, Any]] = {
    "other pictures in training": {"train_source": scene, "test_source": lambda n: scene(100 + n)},
    "a domain that is bluer": {"train_source": scene, "train_target": lambda n: translated(scene(n))},
    "a negative": {"train_source": scene, "train_target": lambda n: 255 - scene(n)},
    "colours for grey": {"train_source": grey, "test_source": grey, "train_target": scene, "test_target": scene},
    "partners of other content": {"train_source": scene, "train_target": lambda n: scene(500 + n, (-30, 0, 30))},
    "some grey pictures": {
        "train_source": lambda n: grey(n) if n % 3 else scene(n),
        "test_source": lambda n: grey(n) if n % 4 else scene(n),
    },
    "warmer and colder light": {
        "train_source": lambda n: scene(n, (20, 0, -20)),
        "test_source": lambda n: scene(n, (2, 0, -2)),
    },
}


@pytest.mark.parametrize("case", NOTHING_WRONG)
def test_nothing_is_said_about_sound_pictures(case: str):
    assert inspect(**NOTHING_WRONG[case]) == []


def test_red_and_blue_swapped_in_one_split():
    (sentence,) = inspect(train_source=scene, test_source=lambda n: scene(100 + n)[..., ::-1])
    assert sentence.startswith("red and blue of the source pictures look swapped in one split: red exceeds blue by ")
    assert "OpenCV" in sentence


def test_red_and_blue_swapped_between_partners():
    swapped = {"train_source": scene, "train_target": lambda n: translated(scene(n))[..., ::-1]}
    (sentence,) = inspect(**swapped)
    assert sentence.startswith("red and blue of source and target look swapped: red minus blue of partners has the")
    assert inspect("unpaired", **swapped) == []


@pytest.mark.parametrize("split", ["train", "test"])
def test_grey_pictures_in_one_split_alone(split: SplitName):
    (sentence,) = inspect(
        train_target=grey if split == "train" else scene, test_target=grey if split == "test" else scene
    )
    assert "the target pictures look like grey ones in one split alone" in sentence
    assert "100% of" in sentence and "0% of" in sentence


@pytest.mark.parametrize(("role", "advice"), [("source", "set dataset.num_labels"), ("target", "such as FID")])
def test_maps_of_classes_saved_as_pictures(role: ImageRole, advice: str):
    def mask(seed: int) -> Pixels:
        return (np.random.default_rng(seed).integers(0, 2, (32, 32, 1)) * 255).repeat(3, axis=2).astype(np.uint8)

    (sentence,) = inspect(**{f"train_{role}": mask})
    assert f"the {role} pictures look like maps of classes: all are grey, with 2 values (0, 255)" in sentence
    assert advice in sentence


def with_alpha(seed: int, alpha: Pixels) -> Image.Image:
    picture = Image.fromarray(scene(seed))
    picture.info[ALPHA] = np.bincount(alpha.ravel(), minlength=256).tolist()
    return picture


def matte(seed: int) -> Image.Image:
    """An opaque disc on nothing, with a soft edge."""
    y, x = np.mgrid[:32, :32] - 16
    return with_alpha(seed, np.clip((12 - np.hypot(x, y)) * 128, 0, 255).astype(np.uint8))


def test_a_fourth_channel_of_data():
    data = np.random.default_rng(0).integers(0, 256, (32, 32)).astype(np.uint8)
    (sentence,) = inspect(train_source=lambda n: with_alpha(n, data))
    assert "the fourth channel of the source pictures looks like data rather than transparency" in sentence
    assert inspect(train_source=matte, test_source=matte) == []
    assert inspect(train_source=lambda n: with_alpha(n, np.full((32, 32), 255)), test_source=scene) == []


def test_transparency_in_one_split_alone():
    (sentence,) = inspect(train_source=matte, test_source=scene)
    assert "one split alone had transparency: 100% of those for training and 0% of the held-out ones" in sentence


def test_decoding_notes_the_fourth_channel_and_halves_keep_the_note(tmp_path: Path):
    from components.catlib.data.decoding import read_picture, split_halves
    from tests.components.catlib.data.image_folders import file_at

    pixels = np.dstack([scene(0), np.full((32, 32), 128, np.uint8)])
    Image.fromarray(pixels).save(tmp_path / "a.png")
    picture = read_picture(file_at(tmp_path / "a.png"))
    assert picture.info[ALPHA][128] == 32 * 32
    assert all(ALPHA in half.info for half in split_halves(picture))


@pytest.mark.parametrize(("pairing", "enough"), [("paired", 400), ("unpaired", 900), ("labels", 2900)])
def test_small_sets_are_named_with_the_reason(pairing: Pairing, enough: int):
    def about(train: int, test: int) -> list[str]:
        roles: tuple[ImageRole, ...] = ("source", "target")
        return about_numbers(
            {("train", role): train for role in roles} | {("test", role): test for role in roles}, pairing
        )

    assert about(enough, 3000) == []
    (few,) = about(enough - 1, 3000)
    assert few.startswith(f"{enough - 1} ") and f"below {enough} (" in few
    (fid,) = about(enough, 2048)
    assert fid.startswith("FID of 2048 images comes out too high")
    scores, _ = about(enough, 99)
    assert scores.startswith("99 held-out target images are few, below 100")
    assert about(0, 0) == []
