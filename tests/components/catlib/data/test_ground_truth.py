from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.catlib.data.ground_truth import GroundTruth, GroundTruthWriter, encoded
from components.catlib.errors import UserError

MAPS = [np.random.default_rng(seed).integers(0, 19, (3 + seed, 5), dtype=np.uint8) for seed in range(3)]


def written(path: Path) -> Path:
    with GroundTruthWriter(path) as writer:
        for classes in MAPS:
            writer.append(encoded(Image.fromarray(classes)))
    return path


def test_maps_come_back_as_they_were_in_any_order(tmp_path: Path):
    found = GroundTruth(written(tmp_path / "maps.zip"))
    assert len(found) == 3
    for row in (2, 0, 1):
        assert found[row].dtype == np.uint8
        assert np.array_equal(found[row], MAPS[row])
    assert len(list(found)) == 3
    with pytest.raises(IndexError):
        found[3]


def test_the_same_maps_give_the_same_bytes(tmp_path: Path):
    assert written(tmp_path / "a.zip").read_bytes() == written(tmp_path / "b.zip").read_bytes()


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: content.replace(b"IDAT", b"XDAT", 1)])
def test_damage_is_one_sentence(tmp_path: Path, damage):
    path = written(tmp_path / "maps.zip")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(UserError, match=r"maps\.zip is damaged; run the dataset stage again"):
        GroundTruth(path)[0]
