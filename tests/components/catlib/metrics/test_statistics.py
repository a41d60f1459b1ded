import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from components.catlib.errors import UserError
from components.catlib.metrics.features import RandomFeatures
from components.catlib.metrics.frechet import frechet_distance
from components.catlib.metrics.statistics import RealStatistics


def images(seed: int, count: int = 6) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 16, 16, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def statistics() -> RealStatistics:
    return RealStatistics.of_images(RandomFeatures(), [images(0), images(1)], protocol="noise")


def test_moments_are_those_of_numpy(statistics: RealStatistics):
    features = statistics.features.astype(np.float64)
    assert statistics.count == len(features) == 12
    assert np.allclose(statistics.mu, features.mean(axis=0), rtol=1e-12)
    assert np.allclose(statistics.sigma, np.cov(features, rowvar=False), rtol=1e-12)


def test_a_file_comes_back_as_it_was(statistics: RealStatistics, tmp_path: Path):
    statistics.save(tmp_path / "s.npz")
    read = RealStatistics.load(tmp_path / "s.npz")
    for field in dataclasses.fields(RealStatistics):
        assert np.array_equal(getattr(read, field.name), getattr(statistics, field.name)), field.name
    assert frechet_distance(read.gaussian, statistics.gaussian) == 0
    assert read.network.identity == statistics.identity


def test_published_moments_are_used_instead_of_features(statistics: RealStatistics):
    moved = dataclasses.replace(statistics, mu=statistics.mu + 1, count=None)
    # Every mean is one further away; the covariances are the same but for rounding.
    assert frechet_distance(moved.gaussian, statistics.gaussian) == pytest.approx(statistics.identity.dims, rel=1e-6)


def test_statistics_need_two_images():
    with pytest.raises(UserError, match=r"at least two images, found 1 \(noise\)"):
        RealStatistics.of_images(RandomFeatures(), [images(0, 1)], protocol="noise")


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"mu": np.full(192, np.nan)}, "mu holds NaN"),
        ({"sigma": np.zeros((192, 10))}, r"sigma is float64 \[192, 10\], expected floats \[192, 192\]"),
        ({"features": np.zeros((3, 7), np.float32)}, r"features is float32 \[3, 7\]"),
        ({"features": np.zeros((3, 192), np.int64)}, r"features is int64"),
        ({"identity": np.array("{}")}, "not a readable statistics file"),
        ({"identity": None}, "not a statistics file of this project"),
        ({"protocol": np.array([{}], dtype=object)}, "not a readable statistics file"),
    ],
)
def test_damaged_files_are_refused(
    statistics: RealStatistics, tmp_path: Path, changes: dict[str, np.ndarray | None], complaint: str
):
    path = tmp_path / "s.npz"
    statistics.save(path)
    arrays = {**np.load(path), **changes}
    np.savez(path, allow_pickle=True, **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=complaint):
        RealStatistics.load(path)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_what_is_no_archive_is_refused(tmp_path: Path, content: bytes):
    path = tmp_path / "s.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match="not a readable statistics file"):
        RealStatistics.load(path)
    with pytest.raises(UserError, match="not a readable statistics file"):
        RealStatistics.load(tmp_path / "missing.npz")


@pytest.mark.parametrize("name", ["mu", "sigma", "count", "features", "identity", "protocol"])
@pytest.mark.parametrize("content", [None, b"", b"7", b"no array"])
def test_a_file_that_lacks_an_array_or_holds_something_else_is_refused(
    statistics: RealStatistics, name: str, content: bytes | None, tmp_path: Path
):
    statistics.save(tmp_path / "whole.npz")
    with zipfile.ZipFile(tmp_path / "whole.npz") as whole, zipfile.ZipFile(tmp_path / "a.npz", "w") as damaged:
        for member in whole.namelist():
            changed = whole.read(member) if member != f"{name}.npy" else content
            if changed is not None:
                damaged.writestr(member, changed)
    said = f"it has no {name}" if content is None else f"{name} is not an array"
    with pytest.raises(UserError, match=rf"a\.npz is not a .*statistics file.*\({said}\); run the real-stats stage"):
        RealStatistics.load(tmp_path / "a.npz")
