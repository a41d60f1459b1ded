import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from components.catlib.reporting.comparison import compare_generators
from components.catlib.reporting.lineage import trace
from components.catlib.reporting.pictures import Pictures, samples, timelines, triptych
from tests.components.report.small_run import SAMPLE_NAMES, SmallRun, rewrite, write_small_run


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    return write_small_run(tmp_path_factory.mktemp("run"))


def noise(size: tuple[int, int]) -> Image.Image:
    """The hardest picture to compress."""
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def encoded(album: Pictures) -> list[str]:
    return album.encode(10**6)


def decoded(uri: str) -> Image.Image:
    head, _, content = uri.partition(",")
    assert head == "data:image/webp;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_small_pictures_keep_their_size() -> None:
    album = Pictures()
    numbers = [album.add(noise(size)) for size in ((24, 16), (640, 64))]
    uris = album.encode(1_000_000)
    assert [decoded(uris[i]).size for i in numbers] == [(24, 16), (640, 64)]


def test_pictures_shrink_until_all_of_them_fit() -> None:
    album = Pictures()
    for _ in range(4):
        album.add(noise((600, 300)))
    uris = album.encode(100_000)
    assert sum(map(len, uris)) <= 100_000
    (size,) = {decoded(uri).size for uri in uris}
    assert size[1] < 256
    assert size[0] == 2 * size[1]


def test_a_picture_that_is_shown_twice_counts_twice() -> None:
    album = Pictures()
    number = album.add(noise((300, 300)))
    once = album.encode(10**9)[number]
    assert decoded(once).size == (256, 256)
    twice = album.encode(2 * len(once) - 1, [number, number])[number]
    assert 2 * len(twice) < 2 * len(once)


def test_pictures_that_cannot_fit_are_said_to(caplog: pytest.LogCaptureFixture) -> None:
    album = Pictures()
    album.add(noise((64, 64)))
    uris = album.encode(10)
    assert decoded(uris[0]).size == (48, 48)
    assert "1 pictures cannot be made smaller" in caplog.text


def test_samples_show_every_generator_on_the_same_images(run: SmallRun) -> None:
    album = Pictures()
    comparison = compare_generators(trace(**run.inputs()))
    shown = samples(comparison, album)
    assert [sample.name for sample in shown] == list(SAMPLE_NAMES)
    captions = [picture.caption for picture in shown[0].pictures]
    assert captions == ["input", "target", "teacher", "student 0.5×", "student 0.2×"]
    assert [picture.colour for picture in shown[0].pictures] == ["", "", "teacher", "student-0", "student-1"]
    assert [picture.caption for picture in triptych(shown, comparison)] == ["input", "teacher", "student 0.2×"]
    assert len(encoded(album)) == 15


def test_samples_that_not_every_student_has_are_left_out(tmp_path: Path) -> None:
    run = write_small_run(tmp_path)
    rewrite(run.evaluations[1], "metrics.json", lambda metrics: metrics["samples"].pop(0))
    shown = samples(compare_generators(trace(**run.inputs())), Pictures())
    assert [sample.name for sample in shown] == list(SAMPLE_NAMES[1:])


def test_timelines_cut_strips_into_their_rows(run: SmallRun) -> None:
    album = Pictures()
    lineage = trace(**run.inputs())
    shown = timelines(lineage, compare_generators(lineage), album)
    assert [timeline.name for timeline in shown] == ["Teacher", "Student 0.5×", "Student 0.2×"]
    assert [row.caption for row in shown[0].rows] == ["input", "target", "step 20", "step 40"]
    assert [row.colour for row in shown[2].rows] == ["", "", "student-1", "student-1"]
    uris = encoded(album)
    strips = [decoded(uris[row.picture]) for row in shown[0].rows]
    assert {strip.size for strip in strips} == {(32, 8)}, "a third of the 24 pixels"
    shades = [strip.convert("RGB").getpixel((5, 4)) for strip in strips]
    assert shades[2] == pytest.approx((20, 20, 120), abs=12)
    assert shades[3] == pytest.approx((40, 40, 120), abs=12)


def test_without_artifacts_there_are_no_timelines(run: SmallRun) -> None:
    lineage = trace(evaluations=run.evaluations)
    assert timelines(lineage, compare_generators(lineage), Pictures()) == []
