from pathlib import Path

import numpy as np
import pytest

from components.catlib.data.cityscapes import cityscapes_train_ids, read_scored_classes
from components.catlib.data.samples import UnusableImageError
from tests.components.catlib.data.image_folders import file_at, noise, write


def test_a_licence_plate_is_ignored_however_its_id_is_stored():
    assert cityscapes_train_ids(np.array([-1, 7, 33, 34, 300])).tolist() == [255, 0, 18, 255, 255]
    assert cityscapes_train_ids(np.array([255, 26], dtype=np.uint8)).tolist() == [255, 13]


def test_scored_classes_are_read_from_label_maps_only(tmp_path: Path):
    scored = read_scored_classes(file_at(write(tmp_path / "labels.png", [[0, 7, 33, 255]])))
    assert (scored.mode, np.asarray(scored).tolist()) == ("L", [[255, 0, 18, 255]])
    with pytest.raises(UnusableImageError, match="has the mode RGB"):
        read_scored_classes(file_at(write(tmp_path / "photo.png", noise(0))))
