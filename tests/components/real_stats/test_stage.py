import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from components.catlib.artifacts import file_sha256, read_manifest
from components.catlib.config import RealStatsConfig, WeightsConfig, validate
from components.catlib.data.packed import PackedDataset
from components.catlib.data.resizing import resize
from components.catlib.errors import UserError
from components.catlib.metrics.features import InceptionFeatures, RandomFeatures
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.statistics import RealStatistics
from components.real_stats.stage import run
from tests.components.catlib.data.image_folders import noise, pack_folder, write
from tests.components.opened import read_statistics

KEPT = Path(__file__).parents[2] / "kept"
RANDOM = RealStatsConfig(batch_size=2)


def dataset(folder: Path, layout: str, *, train: int = 3, test: int = 4, load_size: int = 20) -> PackedDataset:
    for split, count in (("train", train), ("test", test)):
        for index in range(count):
            write(folder / f"data/{split}A/{index}.png", noise(index, 20, 20))
            write(folder / f"data/{split}B/{index}.png", noise(100 + index, 20, 20))
    return pack_folder(folder / "data", folder / "packed", layout=layout, load_size=load_size, crop_size=16)


def features_of(images: np.ndarray) -> np.ndarray:
    return RandomFeatures()(torch.from_numpy(np.array(images)).permute(0, 3, 1, 2)).numpy()


def test_paired_data_is_measured_on_its_test_targets(tmp_path: Path):
    packed = dataset(tmp_path, "parallel")
    run(RANDOM, dataset=packed.folder, output=tmp_path / "stats")
    statistics = read_statistics(tmp_path / "stats", "source_to_target")
    assert np.allclose(statistics.features, features_of(packed.split("test").target), atol=1e-5)
    assert statistics.count == 4
    assert statistics.identity == RandomFeatures().identity
    with np.load(tmp_path / "stats/real_stats.npz", allow_pickle=False) as arrays:
        assert arrays["mu"].shape == (192,)
        assert np.allclose(arrays["sigma"], np.cov(statistics.features, rowvar=False))
    manifest = read_manifest(tmp_path / "stats", "real_stats")
    assert manifest.inputs == {"dataset": read_manifest(packed.folder).digest()}
    assert manifest.summary["metrics"] == {"images": 4, "features": 192}
    assert manifest.summary["distance"] == "frechet_random_features"
    with pytest.raises(UserError, match=r"has no real_stats_source\.npz"):
        read_statistics(tmp_path / "stats", "target_to_source")


def test_unpaired_data_is_measured_on_both_domains_training_images_at_crop_size(tmp_path: Path):
    packed = dataset(tmp_path, "unpaired", load_size=18)
    run(RANDOM, dataset=packed.folder, output=tmp_path / "stats")
    for direction, domain, letter in (("source_to_target", "target", "B"), ("target_to_source", "source", "A")):
        originals = [tmp_path / f"data/{split}{letter}/{i}.png" for split in ("train", "test") for i in range(3)]
        originals.append(tmp_path / f"data/test{letter}/3.png")
        once = np.stack([resize(Image.open(original), (16, 16)) for original in originals])
        assert np.array_equal(np.concatenate(list(packed.real_images(domain).values())), once)
        statistics = read_statistics(tmp_path / "stats", direction)
        assert np.allclose(statistics.features, features_of(once), atol=1e-5)
        assert f"{domain} domain, resized once to 16x16" in statistics.protocol


def test_a_dataset_that_an_earlier_version_packed_has_no_images_resized_once(tmp_path: Path):
    with pytest.raises(UserError, match=r"reference_target\.npy cannot be read .* run the dataset stage again"):
        run(RANDOM, dataset=KEPT / "unpaired/dataset", output=tmp_path / "stats")


def test_one_image_is_too_few_and_leaves_nothing_behind(tmp_path: Path):
    packed = dataset(tmp_path, "parallel", test=1)
    with pytest.raises(UserError, match="at least two images, found 1"):
        run(RANDOM, dataset=packed.folder, output=tmp_path / "stats")
    assert not (tmp_path / "stats").exists()


# ------------------------------------------------------------------------------------------------------------ inception


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> WeightsConfig:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(InceptionFeatures("0" * 64).state_dict(), path)
    return WeightsConfig(uri=str(path), sha256=file_sha256(path))


def test_the_weights_of_the_feature_network_travel_with_the_statistics(tmp_path: Path, weights: WeightsConfig):
    packed = dataset(tmp_path, "parallel", test=2)
    config = RealStatsConfig(features="inception", weights=weights)
    run(config, dataset=packed.folder, output=tmp_path / "stats")
    statistics = read_statistics(tmp_path / "stats", "source_to_target")
    assert statistics.identity.sha256 == weights.sha256
    assert statistics.weights == tmp_path / "stats/feature_network.pth"
    images = torch.from_numpy(np.array(packed.split("test").target)).permute(0, 3, 1, 2)
    assert np.allclose(statistics.network(images).numpy(), statistics.features, atol=1e-5)
    assert read_manifest(tmp_path / "stats").summary["distance"] == "fid"

    (tmp_path / "stats/feature_network.pth").unlink()
    with pytest.raises(UserError, match="are missing beside the statistics"):
        _ = RealStatistics.load(tmp_path / "stats/real_stats.npz").network


def test_published_statistics_take_the_place_of_computed_ones(tmp_path: Path, weights: WeightsConfig):
    packed = dataset(tmp_path, "unpaired", train=1, test=2)
    vectors = np.random.default_rng(0).standard_normal((5, 2048))
    np.savez(tmp_path / "published.npz", mu=vectors.mean(axis=0), sigma=np.cov(vectors, rowvar=False))
    config = RealStatsConfig(
        features="inception", weights=weights, published=WeightsConfig(uri=str(tmp_path / "published.npz"))
    )
    run(config, dataset=packed.folder, output=tmp_path / "stats")
    statistics = read_statistics(tmp_path / "stats", "source_to_target")
    assert statistics.count is None
    assert frechet_distance(statistics.gaussian, Gaussian.from_samples(vectors)) < 1e-6
    # The features for KID, and the other domain, are those of the dataset.
    assert len(statistics.features) == 3
    assert "published.npz" in statistics.protocol
    assert read_statistics(tmp_path / "stats", "target_to_source").count == 3
    summary = read_manifest(tmp_path / "stats").summary
    assert summary["published_distance"] == pytest.approx(
        frechet_distance(statistics.gaussian, Gaussian.from_samples(statistics.features))
    )
    json.dumps(summary, allow_nan=False)


def test_published_statistics_that_are_no_covariance_are_refused(tmp_path: Path, weights: WeightsConfig):
    packed = dataset(tmp_path, "parallel")
    sigma = np.eye(2048)
    sigma[0, 1] = sigma[1, 0] = 5
    np.savez(tmp_path / "published.npz", mu=np.zeros(2048), sigma=sigma)
    published = WeightsConfig(uri=str(tmp_path / "published.npz"))
    config = RealStatsConfig(features="inception", weights=weights, published=published)
    with pytest.raises(UserError, match="negative eigenvalues"):
        run(config, dataset=packed.folder, output=tmp_path / "stats")


def test_weights_need_the_digest_of_the_fid_weights_unless_another_is_named(tmp_path: Path, weights: WeightsConfig):
    packed = dataset(tmp_path, "parallel")
    config = RealStatsConfig(features="inception", weights=WeightsConfig(uri=weights.uri))
    with pytest.raises(UserError, match="expected 6726825d"):
        run(config, dataset=packed.folder, output=tmp_path / "stats")


def test_published_statistics_belong_to_inception():
    with pytest.raises(UserError, match="they need features: inception"):
        validate(RealStatsConfig, {"published": {"uri": "x.npz"}}, where="real_stats")
