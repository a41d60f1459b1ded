"""What later stages need of the images is known before anything is trained."""

from pathlib import Path
from typing import Any

import pytest

from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.needs import Needs, check_needs, unmet
from components.catlib.recipes import load_recipe
from components.check import stage
from tests.components.catlib.data.image_folders import noise, pack_folder, write


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """Ten pairs of 32x32, two of them held out."""
    folder = tmp_path_factory.mktemp("images")
    for place in ("A", "B"):
        for number in range(10):
            write(folder / f"data/{place}/{number}.png", noise(number, 32, 32))
    return pack_folder(folder / "data", folder / "dataset", load_size=32, crop_size=32)


def sections(*changes: str, stages: tuple[str, ...] = ("teacher", "distill", "evaluate")) -> dict[str, Any]:
    recipe = load_recipe("smoke", list(changes))
    return {name: recipe.section(name) for name in (*stages, "prune")}


def found(images: PackedDataset, *changes: str, stages: tuple[str, ...] = ("teacher", "distill", "evaluate")) -> str:
    return "; ".join(unmet(Needs.of(sections(*changes, stages=stages)), images))


def test_at_least_two_images_are_held_out(images: PackedDataset) -> None:
    assert images.summary.images == {"train": {"source": 8, "target": 8}, "test": {"source": 2, "target": 2}}
    assert found(images) == ""


def test_both_batch_sizes_are_checked_at_once(images: PackedDataset) -> None:
    changes = ["teacher.batch_size=9", "distill.batch_size=80"]
    with pytest.raises(UserError) as refused:
        check_needs(Needs.of(sections(*changes)), images)
    said = str(refused.value)
    assert "teacher.batch_size 9 is larger than" in said
    assert "set teacher.batch_size to 8 or less" in said
    assert "set distill.batch_size to 8 or less" in said
    assert said.count("\n") == 0
    assert "teacher" not in found(images, *changes, stages=("distill",)), "no teacher is trained"
    assert found(images, *changes, stages=("evaluate",)) == ""
    published = ["distill.epochs=0", "distill.decay_epochs=0", "distill.published.generator.uri=x", *changes[1:]]
    assert found(images, *published) == "", "nothing is trained"


def test_every_variation_of_a_sweep_is_checked(images: PackedDataset) -> None:
    of_all = sections()
    several = [of_all["distill"], of_all["distill"] | {"batch_size": 80}]
    with pytest.raises(UserError, match=r"distill\.batch_size 80 is larger"):
        stage.run(of_all | {"distill": several}, dataset=images.folder)
    assert "| test | 2 | 2 |" in stage.run(of_all, dataset=images.folder)


def test_pairing_crop_and_what_is_measured_are_checked(images: PackedDataset) -> None:
    assert "teacher.family cyclegan is trained on unpaired images" in found(images, "teacher.family=cyclegan")
    assert "too small for a PatchGAN of 5 layers" in found(images, "teacher.discriminator.num_layers=5")
    weights = "evaluate.lpips={backbone: alex, weights: {uri: x}}"
    assert found(images, weights) == ""
    segmenter = "evaluate.segmenter={weights: {uri: x}}"
    assert found(images, segmenter).count("has no true classes") == 1, "once, for three stages"


def test_too_few_held_out_images_are_noticed_unless_nothing_is_scored(tmp_path: Path) -> None:
    for place in ("A", "B"):
        for number in range(10):
            write(tmp_path / f"data/{place}/{number}.png", noise(number, 32, 32))
    packed = pack_folder(tmp_path / "data", tmp_path / "d", load_size=32, crop_size=32, test_fraction=0)
    quiet = ["teacher.evaluations=0", "distill.evaluations=0"]
    assert "has 0 held-out source images" in found(packed, *quiet)
    assert "has 0 held-out source images" in found(packed, stages=("teacher",))
    assert found(packed, *quiet, stages=("teacher", "distill")) == ""
