import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.catlib.data import packing
from components.catlib.data.resizing import resize
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, pack_folder, write


def test_training_images_get_the_load_size_and_test_images_the_crop_size_from_the_original(tmp_path: Path):
    original = noise(0, 20, 30)
    for split in ("train", "test"):
        write(tmp_path / f"data/{split}A/x.png", original)
        write(tmp_path / f"data/{split}B/x.png", original)
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", load_size=(10, 12), crop_size=(8, 9))
    for array, (height, width) in ((packed.split("train").source, (10, 12)), (packed.split("test").source, (8, 9))):
        expected = Image.fromarray(original).resize((width, height), Image.Resampling.BICUBIC)
        assert np.array_equal(array[0], np.asarray(expected))


def test_numbers_are_never_blended():
    labels = np.array([[0, 200], [200, 0]], dtype=np.uint8)
    assert set(np.unique(resize(Image.fromarray(labels), (7, 5)))) == {0, 200}
    instances = resize(Image.fromarray(np.array([[0, 70000]], dtype=np.int32)), (3, 4))
    assert instances.dtype == np.int32
    assert set(np.unique(instances)) == {0, 70000}


def test_the_last_image_is_packed_too(tmp_path: Path):
    for name in "abcde":
        write(tmp_path / f"data/trainA/{name}.png", noise(ord(name)))
    for name in "xyz":
        write(tmp_path / f"data/trainB/{name}.png", noise(ord(name)))
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", test_fraction=0)
    train = packed.split("train")
    assert (train.names, train.target_names) == (tuple("abcde"), tuple("xyz"))
    assert np.array_equal(train.source[-1], noise(ord("e")))
    assert np.array_equal(train.target[-1], noise(ord("z")))


def broken_pairs(folder: Path, count: int, broken: set[int]) -> Path:
    for index in range(count):
        for domain in "AB":
            path = write(folder / f"{domain}/train/{index:03}.png", noise(index))
            if index in broken and domain == "B":
                path.write_bytes(b"no image")
    for domain in "AB":
        write(folder / f"{domain}/test/t.png", noise(0))
    return folder


def test_all_unusable_images_are_counted_and_logged_and_the_first_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    folder = broken_pairs(tmp_path / "data", 9, broken={1, 2, 3, 5, 6, 7})
    (folder / "A/train/008.png").unlink()
    with pytest.raises(
        UserError, match=r"^7 images cannot be used: .*008\.png \(no partner.*001\.png.* and 2 more, .*log; .*skip"
    ) as caught:
        pack_folder(folder, tmp_path / "packed")
    assert "007.png" not in str(caught.value)
    for number in (1, 2, 3, 5, 6, 7, 8):
        assert f"unusable {folder}/B/train/{number:03}.png" in caplog.text
    assert not (tmp_path / "packed").exists()


def test_skipped_images_take_their_partners_along_and_are_recorded(tmp_path: Path):
    folder = broken_pairs(tmp_path / "data", 70, broken={0, 3, 69})
    write(folder / "B/train/005.png", noise(5, 8, 9))
    (folder / "B/train/006.png").unlink()
    packed = pack_folder(folder, tmp_path / "packed", on_error="skip")
    train = packed.split("train")
    assert len(train.names) == len(train.source) == len(train.target) == 65
    assert train.names[:4] == ("001", "002", "004", "007")
    for row in (0, 2, 64):
        assert np.array_equal(train.source[row], noise(int(train.names[row])))
        assert np.array_equal(train.target[row], noise(int(train.names[row])))
    skipped = {Path(one.file).name: one.reason for one in packed.summary.skipped}
    assert list(skipped) == ["006.png", "000.png", "003.png", "005.png", "069.png"]
    assert "no partner" in skipped["006.png"]
    assert "8×8, but its partner" in skipped["005.png"]
    assert packed.summary.metrics["skipped_images"] == 5
    assert sorted(path.name for path in (tmp_path / "packed").iterdir()) == [
        "manifest.json", "names.json", "report.json", "samples.webp", "test_source.npy", "test_target.npy",
        "train_source.npy", "train_target.npy",
    ]  # fmt: skip


def test_a_folder_of_nothing_but_unusable_images_is_an_error_even_when_skipping(tmp_path: Path):
    write(tmp_path / "data/x.png", noise(0)).write_bytes(b"")
    with pytest.raises(UserError, match="1 image cannot be used"):
        pack_folder(tmp_path / "data", tmp_path / "packed", on_error="skip")


def test_samples_are_packed_in_order_whatever_takes_longest():
    def make(number: int) -> int:
        time.sleep(0.02 if number % 7 == 0 else 0)
        return number

    assert list(packing._in_threads(make, range(150))) == list(range(150))


def test_an_error_ends_the_threads():
    started = []

    def make(number: int) -> None:
        started.append(number)
        raise UserError("stop")

    with pytest.raises(UserError, match="stop"):
        list(packing._in_threads(make, range(1000)))
    assert len(started) <= packing._UNDER_WAY


def test_pictures_may_be_prepared_at_a_smaller_size_first(tmp_path: Path):
    """As the published Cityscapes for pix2pix were made: 256×256 before everything else."""
    original = noise(0, 20, 40)
    for split in ("train", "val"):
        write(tmp_path / f"data/{split}A/x.png", original)
        write(tmp_path / f"data/{split}B/x.png", original)
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", prepared_size=6, load_size=9, crop_size=6)
    bicubic = Image.Resampling.BICUBIC
    prepared = Image.fromarray(original).resize((6, 6), bicubic)
    assert np.array_equal(packed.split("test").source[0], np.asarray(prepared))
    assert np.array_equal(packed.split("train").target[0], np.asarray(prepared.resize((9, 9), bicubic)))


def test_max_images_keeps_the_first_ones_of_every_split(tmp_path: Path):
    folder = broken_pairs(tmp_path / "data", 5, broken={4})
    packed = pack_folder(folder, tmp_path / "packed", max_images=3)
    assert packed.split("train").names == ("000", "001", "002")


def test_an_odd_a_b_image_is_packed(tmp_path: Path):
    image = noise(0, 8, 17)
    write(tmp_path / "data/train/x.png", image)
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", layout="combined", test_fraction=0)
    assert np.array_equal(packed.split("train").source[0], image[:, :8])
    expected = Image.fromarray(image[:, 8:]).resize((8, 8), Image.Resampling.BICUBIC)
    assert np.array_equal(packed.split("train").target[0], np.asarray(expected))


def test_a_sliver_is_no_pair(tmp_path: Path):
    write(tmp_path / "data/train/x.png", noise(0, 8, 1))
    with pytest.raises(UserError, match="too narrow"):
        pack_folder(tmp_path / "data", tmp_path / "packed")


def test_a_full_disk_is_noticed_before_anything_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "data/x.png", noise(0))
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(packing.shutil, "disk_usage", lambda _: usage._replace(free=8 * 8 * 3 - 1))
    with pytest.raises(UserError, match=r"need 0\.00 GB, but only 0\.00 GB are free"):
        pack_folder(tmp_path / "data", tmp_path / "packed")


def test_names_are_kept_as_json(tmp_path: Path):
    write(tmp_path / "data/é/x.png", noise(0))
    write(tmp_path / "data/y.png", noise(1))
    pack_folder(tmp_path / "data", tmp_path / "packed", layout="single")
    assert json.loads((tmp_path / "packed/names.json").read_text()) == {
        "train": {"source": [], "target": []},
        "test": {"source": ["y", "é/x"], "target": []},
    }
