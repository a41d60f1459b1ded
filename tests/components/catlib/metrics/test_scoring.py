from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.metrics.features import RandomFeatures
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.kernel_distance import kernel_distance
from components.catlib.metrics.scoring import score_generator, score_images, summarise
from components.catlib.metrics.statistics import RealStatistics
from tests.components.catlib.data.image_folders import noise, pack_folder, write

SIDE = 16


def folder_of_noise(folder: Path, *, layout: str, count_a: int = 5, count_b: int = 5) -> PackedDataset:
    """Test images A are noise; where B has a partner for it, B is its negative."""
    for split in ("train", "test"):
        for index in range(max(count_a, count_b)):
            if index < count_a:
                write(folder / f"data/{split}A/{index}.png", noise(index, SIDE, SIDE))
            if index < count_b:
                write(folder / f"data/{split}B/{index}.png", 255 - noise(index, SIDE, SIDE))
    return pack_folder(folder / "data", folder / "packed", layout=layout, load_size=SIDE, crop_size=SIDE)


@pytest.fixture(scope="module")
def paired(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return folder_of_noise(tmp_path_factory.mktemp("paired"), layout="parallel")


@pytest.fixture(scope="module")
def unpaired(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    return folder_of_noise(tmp_path_factory.mktemp("unpaired"), layout="unpaired", count_a=3, count_b=5)


def statistics_of(images: np.ndarray) -> RealStatistics:
    return RealStatistics.of_images(RandomFeatures(), [images], protocol="test images")


class Negative(nn.Module):
    """Makes the true target of every input of the datasets here, off by a little."""

    def __init__(self, error: float = 0.0) -> None:
        super().__init__()
        self.error = error

    def forward(self, images: Tensor) -> Tensor:
        assert not self.training
        return self.error - images


def test_a_perfect_generator_gets_perfect_scores(paired: PackedDataset):
    scores = score_generator(Negative(), paired, statistics_of(paired.split("test").target), batch_size=2)
    assert list(scores) == ["l1", "psnr", "ssim", "frechet_random_features"]
    assert scores["l1"] == pytest.approx(0, abs=1e-6)
    assert scores["psnr"] == 100
    assert scores["ssim"] == pytest.approx(1)
    assert scores["frechet_random_features"] == pytest.approx(0, abs=1e-3)


def test_similarity_is_measured_before_rounding_and_features_after(paired: PackedDataset):
    statistics = statistics_of(paired.split("test").target)
    within_a_grey_value = score_generator(Negative(error=0.3 / 127.5), paired, statistics)
    assert within_a_grey_value["l1"] == pytest.approx(0.3 / 127.5, rel=1e-3)
    assert within_a_grey_value["frechet_random_features"] == pytest.approx(0, abs=1e-3)
    assert score_generator(Negative(error=0.8 / 127.5), paired, statistics)["frechet_random_features"] > 0.01


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_every_image_counts_whatever_the_batch_size(paired: PackedDataset, batch_size: int):
    scores = score_images(
        Negative(0.1),
        paired,
        statistics_of(paired.split("test").target),
        direction="source_to_target",
        limit=None,
        batch_size=batch_size,
        device="cpu",
    )
    assert scores.num_images == 5
    assert scores.similarities["l1"] == pytest.approx(0.1, rel=1e-4)


def test_a_limit_takes_the_first_images(paired: PackedDataset):
    statistics = statistics_of(paired.split("test").target)
    features = RandomFeatures()(torch.from_numpy(paired.split("test").target[:2].copy()).permute(0, 3, 1, 2))
    perfect = score_generator(Negative(), paired, statistics, limit=2)
    assert perfect["frechet_random_features"] == pytest.approx(
        frechet_distance(Gaussian.from_samples(features.numpy()), statistics.gaussian), rel=1e-3
    )


@pytest.mark.parametrize(
    ("direction", "domain", "count"), [("source_to_target", "target", 3), ("target_to_source", "source", 5)]
)
def test_unpaired_data_is_translated_both_ways_and_compared_as_a_set(
    unpaired: PackedDataset, direction: str, domain: str, count: int
):
    statistics = statistics_of(getattr(unpaired.split("test"), domain))
    scores = score_images(Negative(), unpaired, statistics, direction=direction, limit=None, batch_size=2, device="cpu")
    assert scores.num_images == count
    assert list(summarise(scores, statistics, kernel_distances=True)) == ["frechet_random_features"]


def test_the_mode_of_the_generator_is_restored_even_after_an_error(paired: PackedDataset):
    statistics = statistics_of(paired.split("test").target)
    generator = Negative().train()
    score_generator(generator, paired, statistics)
    assert generator.training
    with pytest.raises(UserError, match="NaN or infinity"):
        score_generator(generator := Negative(float("nan")).train(), paired, statistics)
    assert generator.training


def test_only_unpaired_data_goes_backwards(paired: PackedDataset):
    statistics = statistics_of(paired.split("test").target)
    with pytest.raises(UserError, match="paired; only unpaired data is translated target_to_source"):
        score_generator(Negative(), paired, statistics, direction="target_to_source")


def test_one_image_has_no_distance(paired: PackedDataset):
    with pytest.raises(UserError, match="1 held-out images to translate, scores need at least two"):
        score_generator(Negative(), paired, statistics_of(paired.split("test").target), limit=1)


def test_a_generator_of_another_size_is_refused(paired: PackedDataset):
    with pytest.raises(UserError, match=r"\(3, 8, 8\), the dataset has \(3, 16, 16\)"):
        score_generator(nn.AvgPool2d(2), paired, statistics_of(paired.split("test").target))


def test_kernel_distances_belong_to_inception_features(paired: PackedDataset):
    statistics = statistics_of(paired.split("test").target)
    scores = score_images(
        Negative(0.2), paired, statistics, direction="source_to_target", limit=None, batch_size=2, device="cpu"
    )
    inception = RealStatistics(
        mu=statistics.mu,
        sigma=statistics.sigma,
        count=statistics.count,
        features=statistics.features,
        identity=statistics.identity.model_copy(update={"name": "inception"}),
        protocol="",
    )
    summary = summarise(scores, inception, kernel_distances=True)
    expected = kernel_distance(scores.features, statistics.features)
    assert (summary["kid"], summary["kid_std"]) == (expected.mean, expected.std)
    assert summary["fid"] == summarise(scores, statistics, kernel_distances=True)["frechet_random_features"]
    assert "kid" not in summarise(scores, inception, kernel_distances=False)
