"""Tiles give the picture that the network makes at once, and only where they do are they used."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.catlib.data.files import SourceFile
from components.catlib.data.labels import semantic_planes
from components.catlib.errors import UserError
from components.catlib.networks.generator import Generator
from components.catlib.serving import tiling
from components.catlib.serving.model import RGB, Model, open_model
from components.catlib.serving.pictures import Picture, read
from components.catlib.serving.tiling import Tile, check_memory, check_size, plan, tiles, translate
from tests.components.catlib.exporting.small_generators import spade
from tests.components.catlib.serving.models import exported

Student = tuple[Generator, Path]


@pytest.fixture(scope="module")
def local(local_student: Student) -> Model:
    return open_model(local_student[1], threads=1)


@pytest.fixture
def in_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves memory for tiles of about 100 pixels."""
    monkeypatch.setattr(tiling, "ALWAYS_WHOLE", 0)
    monkeypatch.setattr(tiling, "MEMORY", 0)
    monkeypatch.setattr(tiling, "LEAST_FOR_TILE", 100 * 100 * 1000)
    monkeypatch.setattr(tiling, "bytes_per_pixel", lambda model: 1000.0)


def picture(height: int, width: int) -> Picture:
    colours = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Picture(Image.fromarray(colours), None, RGB, RGB, "PNG")


def numbers(model: Model, given: Picture) -> np.ndarray:
    return np.asarray(translate(model, given).pixels).astype(int)


@pytest.mark.parametrize("size", [(203, 261), (97, 150), (60, 301), (9, 130)])
def test_tiles_give_the_whole_picture(size: tuple[int, int], local: Model, request: pytest.FixtureRequest) -> None:
    given = picture(*size)
    assert plan(local, 204, 264, held=0) == ([Tile(0, 204, 0, 204)], [Tile(0, 264, 0, 264)])
    if min(size) < local.smallest_size:
        with pytest.raises(UserError, match="at least 12 each way"):
            translate(local, given)
        return
    whole = numbers(local, given)
    request.getfixturevalue("in_tiles")
    rows, columns = plan(local, *(tiling.enlarged(side, 4) for side in size), held=0)
    assert len(rows) * len(columns) >= 2
    found = numbers(local, given)
    assert np.abs(found - whole).max() <= 1  # one rounding apart at most
    assert (found != whole).mean() < 1e-3


def test_less_context_than_the_radius_would_show(local: Model, in_tiles: None) -> None:
    """The radius is not wider than it has to be by more than a step or two, and the comparison above can fail."""
    given = picture(120, 180)
    narrow = Model(**(vars(local) | {"receptive_radius": 0}))
    assert np.abs(numbers(narrow, given) - numbers(local, given)).max() > 5


def test_the_translation_is_that_of_pytorch_on_the_reflected_picture(local: Model, local_student: Student) -> None:
    given = picture(31, 47)
    assert isinstance(given.pixels, Image.Image)
    enlarged = np.pad(np.asarray(given.pixels), ((0, 1), (0, 1), (0, 0)), mode="reflect")
    images = torch.from_numpy(enlarged.transpose(2, 0, 1)[None].astype(np.float32)) / 127.5 - 1
    with torch.no_grad():
        made = local_student[0](images)[0, :, :31, :47].permute(1, 2, 0)
    expected = ((made + 1) * 127.5).round().clamp(0, 255).numpy()
    assert np.abs(numbers(local, given) - expected).max() <= 1


def test_a_label_map_is_painted_as_pytorch_paints_it(tmp_path: Path) -> None:
    generator = spade()
    planes = {"num_labels": 3, "dont_care_plane": True, "instances": False}
    model = open_model(exported(generator, tmp_path / "model.onnx", **planes), threads=1)
    labels = np.random.default_rng(2).choice(np.array([0, 1, 2, 255], np.uint8), (4, 8)).repeat(8, 0).repeat(8, 1)
    Image.fromarray(labels).save(tmp_path / "map.png")
    file = SourceFile("map.png", 1, (tmp_path / "map.png").read_bytes)
    semantics = semantic_planes(torch.from_numpy(labels)[None], None, num_labels=3, dont_care_plane=True)
    with torch.no_grad():
        expected = ((generator(semantics)[0].permute(1, 2, 0) + 1) * 127.5).round().numpy()
    found = numbers(model, read(file, model))
    assert expected.std() > 1
    assert np.abs(found - expected).max() <= 1


def test_tiles_cover_an_axis_and_keep_their_context() -> None:
    assert tiles(40, 16, 8) == [Tile(0, 24, 0, 16), Tile(8, 40, 16, 32), Tile(24, 40, 32, 40)]
    for length, side, context in ((4, 16, 8), (100, 12, 28), (96, 32, 0)):
        cut = tiles(length, side, context)
        assert [tile.kept_start for tile in cut] == [0, *(tile.kept_end for tile in cut[:-1])]
        assert cut[-1].kept_end == length
        for tile in cut:
            assert tile.start == max(0, tile.kept_start - context)
            assert tile.end == min(length, tile.kept_end + context)


def test_a_large_picture_is_cut_so_that_all_fits(local: Model) -> None:
    """At 8192x8192, picture and translation take 537 MB; what is left of 750 MB is for a tile."""
    held = 2 * 4 * 8192**2
    rows, columns = plan(local, 8192, 8192, held=held)
    largest = max(row.end - row.start for row in rows) * max(column.end - column.start for column in columns)
    assert largest * tiling.bytes_per_pixel(local) <= tiling.MEMORY - held
    assert len(rows) < 40


def test_a_model_of_instance_norms_is_never_cut(whole_student: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = open_model(whole_student, threads=1)
    monkeypatch.setattr(tiling, "bytes_per_pixel", lambda model: 1000.0)
    monkeypatch.setattr(tiling, "free_memory", lambda: 10**9)
    assert plan(model, 900, 1000, held=10**9) == ([Tile(0, 900, 0, 900)], [Tile(0, 1000, 0, 1000)])
    with pytest.raises(
        UserError,
        match=r"has 2000x1000 pixels \(height x width\) and needs about 2.0 GB, but 1.0 GB are free; .* statistics of "
        r"the whole picture.* fits is 1341x670",
    ):
        plan(model, 2000, 1000, held=0)
    check_memory(10**4, 10**4, 1000.0, None)  # nothing is known


def test_memory_per_pixel_is_measured(local: Model) -> None:
    assert 100 < tiling.bytes_per_pixel(local) < 4000
    free = tiling.free_memory()
    assert free is None or free > 10**7


@pytest.mark.parametrize(("size", "refused"), [((31, 47), False), ((12, 12), False), ((11, 99), True), ((99, 1), True)])
def test_sizes_below_the_smallest_are_refused(size: tuple[int, int], refused: bool, local: Model) -> None:
    if refused:
        with pytest.raises(UserError, match=f"{size[0]}x{size[1]} pixels .* needs at least 12 each way"):
            check_size(local, *size)
    else:
        check_size(local, *size)


@pytest.mark.slow
def test_8k_takes_at_most_a_gigabyte(local_student: Student, tmp_path: Path) -> None:
    import resource
    import subprocess
    import sys

    Image.new("RGB", (8192, 8192), (200, 30, 90)).save(tmp_path / "large.jpg")
    command = ["translate", "--model", local_student[1], "--input", tmp_path / "large.jpg", "--output", tmp_path / "o"]
    subprocess.run([sys.executable, "-m", "components", *map(str, command)], check=True)
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 <= 10**9
    with Image.open(tmp_path / "o/large.jpg") as made:
        assert made.size == (8192, 8192)
