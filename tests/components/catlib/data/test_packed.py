import json
from pathlib import Path

import numpy as np
import pytest

from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, pack_folder, write


@pytest.fixture
def four_pairs(tmp_path: Path) -> Path:
    """The example in the module's docstring."""
    for split, names in (("train", "abd"), ("test", "c")):
        for name in names:
            for domain in "AB":
                write(tmp_path / f"data/{domain}/{split}/{name}.png", noise(ord(name), 72, 72))
    pack_folder(tmp_path / "data", tmp_path / "packed", load_size=72, crop_size=64)
    return tmp_path / "packed"


def test_the_documented_example(four_pairs: Path):
    arrays = {path.name: np.load(path) for path in four_pairs.glob("*.npy")}
    assert {name: (array.dtype, array.shape) for name, array in arrays.items()} == {
        "train_source.npy": (np.uint8, (3, 72, 72, 3)),
        "train_target.npy": (np.uint8, (3, 72, 72, 3)),
        "test_source.npy": (np.uint8, (1, 64, 64, 3)),
        "test_target.npy": (np.uint8, (1, 64, 64, 3)),
    }
    packed = PackedDataset.open(four_pairs)
    assert (packed.pairing, packed.load_size, packed.crop_size) == ("paired", (72, 72), (64, 64))
    assert (packed.in_channels, packed.out_channels, packed.num_labels) == (3, 3, None)
    assert packed.test_is_paired
    assert packed.split("train").names == ("a", "b", "d")
    assert isinstance(packed.split("train").source, np.memmap)
    assert np.array_equal(packed.split("train").target[2], noise(ord("d"), 72, 72))


def test_the_semantic_planes_are_counted(tmp_path: Path):
    write(tmp_path / "data/A/x.png", [[0, 3] * 4] * 4 + [[255] * 8] * 4)
    write(tmp_path / "data/B/x.png", noise(0))
    packed = pack_folder(tmp_path / "data", tmp_path / "plain", num_labels=4)
    assert (packed.pairing, packed.in_channels, packed.has_instances) == ("labels", 4, False)
    packed = pack_folder(tmp_path / "data", tmp_path / "dont_care", num_labels=4, dont_care_plane=True)
    assert packed.in_channels == 5
    write(tmp_path / "data/instances/x.tif", np.full((8, 8), 70000), np.int32)
    packed = pack_folder(tmp_path / "data", tmp_path / "instances", num_labels=4, dont_care_plane=True)
    assert (packed.in_channels, packed.has_instances) == (6, True)
    instances = packed.split("train").instances
    assert instances is not None
    assert (instances.dtype, instances.max()) == (np.int32, 70000)


def test_arrays_that_contradict_the_manifest_are_refused(four_pairs: Path):
    manifest = json.loads((four_pairs / "manifest.json").read_text())
    manifest["summary"]["images"]["train"]["source"] = 4
    (four_pairs / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(
        UserError, match=r"train_source\.npy holds uint8 \[3, 72, 72, 3\], but its manifest states uint8 \[4,"
    ):
        PackedDataset.open(four_pairs)


def test_a_damaged_header_is_refused(four_pairs: Path):
    path = four_pairs / "test_target.npy"
    path.write_bytes(b"?" * path.stat().st_size)
    with pytest.raises(UserError, match=r"test_target\.npy cannot be read"):
        PackedDataset.open(four_pairs)


def test_what_is_no_dataset_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="no folder"):
        PackedDataset.open(tmp_path / "nothing")
