"""Augmentation, label encoding and trainIds against the published implementation, from image files to tensors."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from components.catlib.data.batches import Crops, channels_first, crop_and_flip, to_unit_range
from components.catlib.data.cityscapes import cityscapes_train_ids
from components.catlib.data.labels import instance_edges, semantic_planes
from components.catlib.data.packed import PackedDataset
from components.catlib.data.samples import role_of
from components.catlib.errors import UserError
from tests.components.catlib.data.image_folders import noise, pack_folder, write
from tests.parity.cases import Case

pytestmark = pytest.mark.cases("data*.json")


def one_crop(left: int, top: int, *, flip: bool) -> Crops:
    return Crops(tops=np.array([top]), lefts=np.array([left]), flips=np.array([flip]))


def cut(images: np.ndarray, crops: Crops, size: tuple[int, int]) -> np.ndarray:
    return crop_and_flip(images, np.array([0]), crops, size)


def test_aligned_items(case: Case, tmp_path: Path):
    options = case.facts["aligned_opt"]
    write(tmp_path / "data/train/x.png", case.tensors["aligned/raw_AB"].numpy())
    sizes = {"load_size": options["load_size"], "crop_size": options["crop_size"]}
    packed = pack_folder(
        tmp_path / "data", tmp_path / "packed", direction=options["direction"], test_fraction=0, **sizes
    )
    train = packed.split("train")
    assert case.facts["aligned_items"]
    for item in case.facts["aligned_items"]:
        (left, top), flip = item["params"]["crop_pos"], item["params"]["flip"]
        width, height = item["params"]["crop_size"]
        crops = one_crop(left, top, flip=flip and not options["no_flip"])
        for domain in ("A", "B"):
            images = train.source if role_of(domain, options["direction"]) == "source" else train.target
            tensor = to_unit_range(cut(images, crops, (height, width)))[0]
            torch.testing.assert_close(tensor, case.tensors[f"{item['key']}/{domain}"], rtol=0, atol=1e-6)


def test_evaluation_images_are_resized_from_the_original(case: Case, tmp_path: Path):
    raw = case.tensors["aligned/raw_AB"].numpy()
    for split in ("train", "test"):
        write(tmp_path / f"data/{split}/x.png", raw)
    crop = case.facts["aligned_opt"]["crop_size"]
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", load_size=2 * crop, crop_size=crop)
    right = Image.fromarray(raw[:, raw.shape[1] // 2 :]).resize((crop, crop), Image.Resampling.BICUBIC)
    assert np.array_equal(packed.split("test").target[0], np.asarray(right))


def pack_cityscapes(case: Case, folder: Path) -> PackedDataset:
    options = case.facts["cityscapes_opt"]
    raw = {kind: case.tensors[f"cityscapes/raw_{kind}"].numpy() for kind in ("label", "photo", "instance")}
    height, width = raw["label"].shape
    write(folder / "data/A/x.png", raw["label"])
    write(folder / "data/B/x.png", raw["photo"])
    deep = raw["instance"].max() > np.iinfo(np.uint16).max
    write(folder / f"data/instances/x.{'tif' if deep else 'png'}", raw["instance"], np.int32 if deep else np.uint16)
    size = (int(options["load_size"] * height / width), options["load_size"])
    settings: dict[str, Any] = {"load_size": size, "crop_size": size, "num_labels": options["input_nc"]}
    return pack_folder(folder / "data", folder / "packed", test_fraction=0, **settings)


def test_cityscapes_items(case: Case, tmp_path: Path):
    packed = pack_cityscapes(case, tmp_path)
    train = packed.split("train")
    assert train.instances is not None
    assert case.facts["cityscapes_items"]
    for item in case.facts["cityscapes_items"]:
        crops = one_crop(0, 0, flip=item["params"]["flip"] and not case.facts["cityscapes_opt"]["no_flip"])
        label, photo, instances = (
            cut(part, crops, packed.crop_size) for part in (train.source, train.target, train.instances)
        )
        expected_label = case.tensors[f"{item['key']}/label"].numpy()
        dont_care = case.facts["cityscapes_opt"]["input_nc"]
        assert np.array_equal(np.where(label == 255, dont_care, label), expected_label)
        torch.testing.assert_close(to_unit_range(photo)[0], case.tensors[f"{item['key']}/image"], rtol=0, atol=1e-6)
        # Differs: the published implementation wraps instance ids at 16 bits.
        expected_instances = case.tensors[f"{item['key']}/instance"].numpy()
        assert np.array_equal(instances.astype(np.int16), expected_instances)
        assert instances.min() >= 0
        assert set(np.unique(instances)) <= set(np.unique(case.tensors["cityscapes/raw_instance"].numpy()))


def test_semantics(case: Case):
    tensors, num_labels = case.group("semantics"), case.facts["semantics"]["num_labels"]
    label, instances = tensors["label"][:, 0].to(torch.uint8), tensors["instance"][:, 0]
    assert torch.equal(semantic_planes(label, instances, num_labels=num_labels), tensors["output"])
    assert torch.equal(instance_edges(instances).float().unsqueeze(1), tensors["edges"])


def test_a_label_equal_to_the_class_count_is_a_mistake_that_names_the_file(case: Case, tmp_path: Path):
    num_labels = case.facts["semantics"]["num_labels"]
    write(tmp_path / "data/A/wrong.png", np.full((8, 8), num_labels))
    write(tmp_path / "data/B/wrong.png", noise(0))
    with pytest.raises(UserError, match=rf"wrong\.png \(holds the label {num_labels}"):
        pack_folder(tmp_path / "data", tmp_path / "packed", num_labels=num_labels)


def test_every_8_bit_label_survives(case: Case, tmp_path: Path):
    assert case.facts["label_uint8_roundtrip_wrong_values"] == []
    write(tmp_path / "data/A/x.png", np.arange(256).reshape(16, 16))
    write(tmp_path / "data/B/x.png", noise(0, 16, 16))
    settings: dict[str, Any] = {"num_labels": 255, "load_size": 16, "crop_size": 16, "test_fraction": 0}
    packed = pack_folder(tmp_path / "data", tmp_path / "packed", **settings)
    assert np.array_equal(packed.split("train").source[0], np.arange(256).reshape(16, 16))


def test_train_ids(case: Case):
    names, ids, train_ids = zip(*case.facts["trainId_table"], strict=True)
    # Differs: the published table gives −1 for the licence plate, which is no class and no 8-bit number.
    expected = [255 if train_id < 0 else train_id for train_id in train_ids]
    assert cityscapes_train_ids(np.array(ids)).tolist() == expected, names


def test_no_last_image_is_dropped(case: Case, tmp_path: Path):
    """Differs: the published implementation loses the last image of every unpaired and single folder."""
    facts = case.facts["unaligned_last_image_dropped"]
    for domain, count in facts["unaligned_files"].items():
        for index in range(count):
            write(tmp_path / f"unpaired/train{domain}/{index:04}.png", noise(index))
    for index in range(facts["single_files"]):
        write(tmp_path / f"single/{index:04}.png", noise(index))
    unpaired = pack_folder(tmp_path / "unpaired", tmp_path / "packed_unpaired", test_fraction=0)
    single = pack_folder(tmp_path / "single", tmp_path / "packed_single")
    assert unpaired.summary.images["train"] == {
        "source": facts["unaligned_files"]["A"],
        "target": facts["unaligned_files"]["B"],
    }
    assert len(single.split("test").source) == facts["single_files"]
    last: Tensor = to_unit_range(channels_first(single.split("test").source[-1:]))
    assert torch.equal(last, to_unit_range(channels_first(noise(facts["single_files"] - 1)[None])))
