"""Measures the images of exported files as the evaluation measures those of a student, and compares the two."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn

from components.catlib.data.channels import to_8_bits
from components.catlib.data.packed import PackedDataset
from components.catlib.metrics.catalogue import BY_KEY, AgainstReal
from components.catlib.metrics.features import RandomFeatures
from components.catlib.metrics.held_out import HeldOut
from components.catlib.metrics.scoring import quality, score_images
from components.catlib.metrics.statistics import RealStatistics
from components.catlib.networks.directions import Direction

BATCH = 8

Figures = Mapping[str, Any]
"""Scores by metric, and `confidence`: their 95 % intervals by metric."""


class _Runs(nn.Module):
    """A file in a runtime, in the place of a generator."""

    def __init__(self, run: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self._run = run

    def forward(self, images_NCHW: Tensor) -> Tensor:
        return self._run(images_NCHW)


def figures_of(
    run: Callable[[Tensor], Tensor],
    dataset: PackedDataset,
    direction: Direction,
    statistics: RealStatistics,
    *,
    limit: int,
) -> Figures:
    """Returns the scores of a file's images, and their intervals; mIoU and LPIPS, which need networks, are left out.

    Args:
        run: Translates float32 images [N, C, H, W] in [-1, 1].
        dataset: Its held-out images are translated, at least two.
        direction: What the generator translates.
        statistics: Statistics of real images.
        limit: At most this many images.
    """
    scores = score_images(
        _Runs(run), dataset, statistics, direction=direction, limit=limit, batch_size=BATCH, device="cpu"
    )
    return quality(scores, HeldOut(dataset, statistics, direction, batch_size=BATCH, device="cpu"))


def random_statistics(dataset: PackedDataset, direction: Direction) -> RealStatistics:
    """Returns statistics of the real held-out images of the domain that is generated, by random features."""
    domain = direction.output.value
    images = dataset.real_images(domain)["test"]
    batches = (images[start : start + BATCH] for start in range(0, len(images), BATCH))
    return RealStatistics.of_images(
        RandomFeatures(), (to_8_bits(batch, dataset.values[domain]) for batch in batches), protocol="held-out images"
    )


def lost_metric(figures: Figures, reference: Figures) -> str | None:
    """Returns which metric lies outside the interval of the float32 file, to end a sentence; None if none does.

    Comparisons with real images do not count: an interval of checkerboards that no image has is a point.
    """
    for key, (low, high) in reference["confidence"].items():
        if isinstance(BY_KEY[key].measured, AgainstReal):
            continue
        if not low <= figures[key] <= high:
            interval = f"{low:.4g} to {high:.4g}"
            return f"has {BY_KEY[key].label} {figures[key]:.4g}, outside the interval of float32, {interval}"
    return None
