"""Files of less precision are scored as the evaluation scores a student."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from components.catlib.data.packed import PackedDataset
from components.catlib.exporting.kept_metrics import Figures, figures_of, lost_metric, random_statistics
from components.catlib.metrics.scoring import score_generator
from components.catlib.metrics.statistics import open_statistics
from components.catlib.networks.directions import Direction
from tests.components.opened import read_generator

KEPT = Path(__file__).parents[3] / "kept/paired"
FORWARD = Direction.SOURCE_TO_TARGET


@pytest.fixture(scope="module")
def dataset() -> PackedDataset:
    return PackedDataset.open(KEPT / "dataset")


def test_the_scores_are_those_of_the_evaluation(dataset: PackedDataset) -> None:
    generator = read_generator(KEPT / "distill", "source_to_target").eval()
    statistics = open_statistics(KEPT / "real_stats").read(FORWARD)
    figures = figures_of(torch.inference_mode()(generator), dataset, FORWARD, statistics, limit=32)
    expected = score_generator(generator, dataset, statistics, direction=FORWARD, limit=32, batch_size=8, device="cpu")
    assert {"l1", "psnr", "ssim", "frechet_random_features"} <= expected.keys()
    assert {key: figures[key] for key in expected} == expected
    assert all(low <= figures[key] <= high for key, (low, high) in figures["confidence"].items())


def test_a_file_that_moves_the_images_as_a_set_loses_the_distance(dataset: PackedDataset) -> None:
    """A fine pattern over all pictures, which the features of a set see."""
    statistics = random_statistics(dataset, FORWARD)

    def scored(error: float) -> Figures:
        def run(images: Tensor) -> Tensor:
            pattern = torch.ones_like(images)
            pattern[..., ::2, ::2] = -1
            return (images * 0.5 + error * pattern).clamp(-1, 1)

        return figures_of(run, dataset, FORWARD, statistics, limit=32)

    reference = scored(0.0)
    assert lost_metric(scored(0.001), reference) is None
    against_real = {key: (0.0, 0.0) for key in ("gradient_energy_ratio", "checkerboard_ratio") if key in reference}
    assert against_real
    assert lost_metric(reference, {"confidence": against_real}) is None
    only_the_distance = {"confidence": {"frechet_random_features": reference["confidence"]["frechet_random_features"]}}
    lost = lost_metric(scored(0.3), reference | only_the_distance)
    assert lost is not None and lost.startswith("has Fréchet distance") and "outside the interval of float32" in lost
