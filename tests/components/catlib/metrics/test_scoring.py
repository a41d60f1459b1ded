from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from components.catlib.config import SegmenterConfig, WeightsConfig
from components.catlib.data.cityscapes import TRAIN_IDS
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.metrics.catalogue import METRICS, PerPair
from components.catlib.metrics.features import RandomFeatures
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.held_out import HeldOut, held_out_images, is_labelled
from components.catlib.metrics.kernel_distance import kernel_distance
from components.catlib.metrics.scoring import quality, score_generator, score_images, summarise
from components.catlib.metrics.segmenters import read_segmenter
from components.catlib.metrics.statistics import RealStatistics
from components.catlib.networks.directions import Direction
from tests.components.catlib.data.image_folders import noise, pack_folder, write
from tests.components.catlib.data.street_scenes import write_scene
from tests.components.catlib.metrics.segmenter_files import write_onnx

SIDE = 16
FORWARD = Direction.SOURCE_TO_TARGET

SIMILARITIES = [
    metric.key for metric in METRICS if isinstance(metric.measured, PerPair) and metric.measured.measure is not None
]


def folder_of_noise(
    folder: Path, *, layout: str, count_a: int = 5, count_b: int = 5, side: int = SIDE
) -> PackedDataset:
    """Test images A are noise; where B has a partner for it, B is its negative."""
    for split in ("train", "test"):
        for index in range(max(count_a, count_b)):
            if index < count_a:
                write(folder / f"data/{split}A/{index}.png", noise(index, side, side))
            if index < count_b:
                write(folder / f"data/{split}B/{index}.png", 255 - noise(index, side, side))
    return pack_folder(folder / "data", folder / "packed", layout=layout, load_size=side, crop_size=side)


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
    assert list(scores) == [*SIMILARITIES, "frechet_random_features", "gradient_energy_ratio"]
    assert scores["l1"] == pytest.approx(0, abs=1e-6)
    assert scores["psnr"] == 100
    assert scores["ssim"] == pytest.approx(1)
    assert scores["frechet_random_features"] == pytest.approx(0, abs=1e-3)
    assert scores["gradient_energy_ratio"] == pytest.approx(1, rel=1e-5)


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
        direction=Direction.SOURCE_TO_TARGET,
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
    ("direction", "domain", "count"),
    [(Direction.SOURCE_TO_TARGET, "target", 3), (Direction.TARGET_TO_SOURCE, "source", 5)],
)
def test_unpaired_data_is_translated_both_ways_and_compared_as_a_set(
    unpaired: PackedDataset, direction: Direction, domain: str, count: int
):
    statistics = statistics_of(getattr(unpaired.split("test"), domain))
    scores = score_images(Negative(), unpaired, statistics, direction=direction, limit=None, batch_size=2, device="cpu")
    assert scores.num_images == count
    assert list(summarise(scores, statistics, labelled=False)) == ["frechet_random_features", "gradient_energy_ratio"]


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
        score_generator(Negative(), paired, statistics, direction=Direction.TARGET_TO_SOURCE)


def test_one_image_has_no_distance(paired: PackedDataset):
    with pytest.raises(UserError, match="1 held-out images to translate; scores need at least two"):
        score_generator(Negative(), paired, statistics_of(paired.split("test").target), limit=1)


def test_a_generator_of_another_size_is_refused(paired: PackedDataset):
    with pytest.raises(UserError, match=r"\(3, 8, 8\), but the dataset has \(3, 16, 16\)"):
        score_generator(nn.AvgPool2d(2), paired, statistics_of(paired.split("test").target))


def test_kernel_distances_belong_to_inception_features(paired: PackedDataset):
    statistics = statistics_of(paired.split("test").target)
    scores = score_images(
        Negative(0.2), paired, statistics, direction=Direction.SOURCE_TO_TARGET, limit=None, batch_size=2, device="cpu"
    )
    inception = RealStatistics(
        mu=statistics.mu,
        sigma=statistics.sigma,
        count=statistics.count,
        features=statistics.features,
        identity=statistics.identity.model_copy(update={"name": "inception"}),
        protocol="",
    )
    summary = summarise(scores, inception, labelled=False)
    expected = kernel_distance(scores.features, statistics.features)
    assert (summary["kid"], summary["kid_std"]) == (expected.mean, expected.std)
    assert summary["fid"] == summarise(scores, statistics, labelled=False)["frechet_random_features"]
    assert "kid" not in summarise(scores, inception, labelled=True)


# -------------------------------------------------------------------------------------------------- against real images


class Faded(nn.Module):
    """Lowers the contrast, and with it the energy of gradients."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, images: Tensor) -> Tensor:
        return self.factor * images


class Chequered(nn.Module):
    """Adds a checkerboard."""

    def __init__(self, amplitude: float) -> None:
        super().__init__()
        self.amplitude = amplitude

    def forward(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        rows, columns = torch.arange(height)[:, None], torch.arange(width)
        return images + self.amplitude * (1 - 2 * ((rows + columns) % 2))


def gradients_of(images: np.ndarray) -> float:
    values = images.astype(float) / 127.5 - 1
    return float(np.square(np.diff(values, axis=1)).mean() + np.square(np.diff(values, axis=2)).mean())


@pytest.mark.parametrize("direction", list(Direction))
@pytest.mark.parametrize("limit", [None, 2])
def test_unpaired_images_are_compared_with_all_real_ones_of_the_domain_up_to_the_limit(
    unpaired: PackedDataset, direction: Direction, limit: int | None
):
    split = unpaired.split("test")
    inputs, real = split.source, split.target
    if direction is Direction.TARGET_TO_SOURCE:
        inputs, real = real, inputs
    statistics = statistics_of(real)
    scores = score_generator(Faded(0.5), unpaired, statistics, direction=direction, limit=limit, batch_size=2)
    expected = 0.25 * gradients_of(inputs[:limit]) / gradients_of(real[:limit])
    assert scores["gradient_energy_ratio"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("layout", ["parallel", "unpaired"])
def test_a_generator_that_leaves_checkerboards_is_found_by_images_of_64_pixels(tmp_path: Path, layout: str):
    dataset = folder_of_noise(tmp_path, layout=layout, count_a=4, count_b=4, side=64)
    held_out = HeldOut(dataset, statistics_of(dataset.split("test").target), FORWARD, batch_size=3, device="cpu")

    def measured(generator: nn.Module) -> dict[str, Any]:
        scores = score_images(
            generator, dataset, held_out.statistics, direction=FORWARD, limit=None, batch_size=3, device="cpu"
        )
        return quality(scores, held_out)

    power = float(np.square(dataset.split("test").source / 127.5 - 1).mean())
    assert measured(nn.Identity())["checkerboard_ratio"] == pytest.approx(1, abs=0.2)
    chequered = measured(Chequered(0.3))
    assert chequered["checkerboard_ratio"] == pytest.approx(1 + 2 / 3 * 64 * 0.3**2 / power, rel=0.2)
    for key in ("checkerboard_ratio", "gradient_energy_ratio"):
        low, high = chequered["confidence"][key]
        assert low < chequered[key] < high


def test_what_is_not_defined_is_left_out(paired: PackedDataset, tmp_path: Path):
    """Sixteen pixels are too few for checkerboards; flat real images have no gradient; a source alone has no target."""
    statistics = statistics_of(paired.split("test").target)
    assert "checkerboard_ratio" not in score_generator(Negative(), paired, statistics)
    for index in range(3):
        for split in ("train", "test"):
            write(tmp_path / f"data/{split}A/{index}.png", noise(index, 64, 64))
            write(tmp_path / f"data/{split}B/{index}.png", np.full((64, 64, 3), 80, np.uint8))
    flat = pack_folder(tmp_path / "data", tmp_path / "flat", layout="parallel", load_size=64, crop_size=64)
    scores = score_generator(nn.Identity(), flat, statistics)
    assert "gradient_energy_ratio" not in scores
    assert scores["checkerboard_ratio"] > 0


def test_label_maps_are_compared_with_real_photographs(streets: PackedDataset):
    real = streets.split("test").target
    scores = score_generator(Painter(), streets, statistics_of(real))
    made = [Painter()(images) for images, _ in held_out_images(streets, direction=FORWARD, limit=None, batch_size=4)]
    painted = (torch.cat(made).permute(0, 2, 3, 1).numpy() + 1) * 127.5
    assert scores["gradient_energy_ratio"] == pytest.approx(gradients_of(painted) / gradients_of(real), rel=1e-4)
    assert list(scores)[-1] == "gradient_energy_ratio"


# ----------------------------------------------------------------------------------------------------------------- mIoU

CLASS_COLOURS = np.stack(np.meshgrid(*3 * [[0.0, 0.5, 1.0]], indexing="ij"), axis=-1).reshape(-1, 3)[:19]


class Painter(nn.Module):
    """Paints every class in the colour by which the segmenter of these tests knows it, some classes wrongly."""

    def __init__(self, **taken_for: int) -> None:
        super().__init__()
        colours = torch.zeros(36, 3)
        for label, train_id in TRAIN_IDS.items():
            colours[label] = torch.from_numpy(CLASS_COLOURS[taken_for.get(f"class_{train_id}", train_id)] * 2 - 1)
        self.colours = colours

    def forward(self, semantics: Tensor) -> Tensor:
        return torch.einsum("nlhw,lc->nchw", semantics[:, :35], self.colours[:35])


@pytest.fixture(scope="module")
def streets(tmp_path_factory: pytest.TempPathFactory) -> PackedDataset:
    """Scenes of 16×32 pixels; road lies left, a car right, and what is not scored between."""
    folder = tmp_path_factory.mktemp("streets")
    for split, count in (("train", 1), ("val", 4)):
        for number in range(count):
            labels = np.full((16, 32), 7, np.uint8)
            labels[:, 8 + number :] = 0
            labels[:, 16:] = 26
            write_scene(folder / "data", split, f"city/{number:06}", labels, noise(number, 16, 32))
    return pack_folder(
        folder / "data",
        folder / "packed",
        layout="cityscapes",
        direction="BtoA",
        num_labels=35,
        load_size=(16, 32),
        crop_size=(16, 32),
    )


@pytest.fixture(scope="module")
def segmenter_config(tmp_path_factory: pytest.TempPathFactory) -> SegmenterConfig:
    path = write_onnx(tmp_path_factory.mktemp("segmenter") / "s.onnx", CLASS_COLOURS.astype(np.float32))
    weights = WeightsConfig(uri=str(path))
    return SegmenterConfig(architecture="onnx", weights=weights, mean=(0, 0, 0), std=(1, 1, 1))


def miou(painter: Painter, streets: PackedDataset, config: SegmenterConfig, **changes: int) -> float:
    statistics = statistics_of(streets.split("test").target)
    scores = score_generator(painter, streets, statistics, segmenter=read_segmenter(config), batch_size=3, **changes)
    return scores["miou"]


def test_what_a_segmenter_recognises_everywhere_has_an_miou_of_100(
    streets: PackedDataset, segmenter_config: SegmenterConfig
):
    assert miou(Painter(), streets, segmenter_config) == 100


def test_every_image_is_compared_with_its_own_true_classes(streets: PackedDataset, segmenter_config: SegmenterConfig):
    """The road, seen as a car: no pixel of it is found, and the car's 16 columns are half of what is taken for cars."""
    painter = Painter(class_0=13)
    for limit in (2, 4):
        road = [8 + number for number in range(limit)]
        car = 16 * limit / (16 * limit + sum(road))
        assert miou(painter, streets, segmenter_config, limit=limit) == pytest.approx(100 * (0 + car) / 2)


def test_only_generated_photographs_with_true_classes_have_an_miou(
    streets: PackedDataset, paired: PackedDataset, segmenter_config: SegmenterConfig
):
    with pytest.raises(UserError, match="has no true classes, which mIoU needs"):
        miou(Painter(), paired, segmenter_config)
    maps = pack_folder(
        streets.folder.parent / "data",
        streets.folder.parent / "maps",
        layout="cityscapes",
        direction="AtoB",
        load_size=(16, 32),
        crop_size=(16, 32),
    )
    with pytest.raises(UserError, match="A segmenter reads photographs"):
        miou(Painter(), maps, segmenter_config)
    assert [is_labelled(each) for each in (paired, streets, maps)] == [False, True, True]
