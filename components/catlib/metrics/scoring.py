"""Scores of a generator on held-out images, the same ones during training and in the final evaluation.

Which scores there are, and how each is computed, is in the table of `catalogue.py`; this file translates the images
and goes through that table. Besides the keys there, `kid_std` is the spread of the kernel distance over its subsets.

Similarities to the true target and comparisons with real images take the generator's output as it is; features are
computed from images rounded to 8 bits, and segmenters see those.

Shape suffixes: N images, C channels or classes, H height, W width, D features, K numbers of an image.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.catlib.config import ValuesConfig
from components.catlib.data.batches import channels_first, to_unit_range
from components.catlib.data.image_conversion import to_uint8
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import measures_on
from components.catlib.errors import UserError
from components.catlib.fitting import check_segmentable
from components.catlib.metrics import confidence
from components.catlib.metrics.catalogue import (
    BY_KEY,
    METRICS,
    AgainstReal,
    FromConfusions,
    FromFeatures,
    Metric,
    PerPair,
    RealImages,
)
from components.catlib.metrics.confidence import Interval
from components.catlib.metrics.features import features_of
from components.catlib.metrics.held_out import HeldOut, held_out_images, is_labelled, real_batches
from components.catlib.metrics.segmenters import Segmenter
from components.catlib.metrics.statistics import RealStatistics
from components.catlib.networks.directions import Direction

Similarity = Callable[[Tensor, Tensor], Tensor]
"""From generated images and their targets [N, C, H, W] to [N]."""

_AGAINST_REAL = {metric.key: metric.measured for metric in METRICS if isinstance(metric.measured, AgainstReal)}


@dataclass(frozen=True)
class BothSides:
    """Numbers of each generated image [N, K] and of each real one [M, K], float64."""

    generated: NDArray[np.float64]
    real: NDArray[np.float64]


@dataclass(frozen=True)
class ImageScores:
    """Measurements of each generated image.

    Attributes:
        similarities: Metric -> its value for each image, float64 [N]; empty when there are no true targets.
        features: Features of the 8-bit images [N, D], float32.
        against_real: Metric -> what it compares of generated and real images; those that are not defined are missing.
        confusions: Pixels by true class and by the class that a segmenter sees [N, 19, 19]; None without a segmenter.
    """

    similarities: dict[str, NDArray[np.float64]]
    features: NDArray[np.float32]
    against_real: dict[str, BothSides]
    confusions: NDArray[np.int64] | None = None

    @property
    def num_images(self) -> int:
        """Number of generated images."""
        return len(self.features)

    def by_image(self) -> dict[str, list[float]]:
        """Returns the similarities of every image to its target, by metric, in the order of the held-out images."""
        return {name: values.tolist() for name, values in self.similarities.items()}


def score_generator(
    generator: nn.Module,
    dataset: PackedDataset,
    statistics: RealStatistics,
    *,
    direction: Direction = Direction.SOURCE_TO_TARGET,
    limit: int | None = None,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    segmenter: Segmenter | None = None,
) -> dict[str, float]:
    """Translates held-out images and scores the result.

    Args:
        generator: From input images [N, C, H, W] to images [N, C, H, W] in [-1, 1]. It runs in eval mode and is
            left in its earlier mode.
        dataset: The dataset, whose test split is used.
        statistics: Statistics of real images of the domain that the generator translates to.
        direction: Direction in which the generator translates.
        limit: Number of images to use, from the first; None uses all.
        batch_size: Images per forward pass.
        device: Device of the generator.
        segmenter: Reads classes off the generated images, for mIoU.

    Returns:
        Metric -> score, all finite.

    Raises:
        UserError: There are fewer than two held-out images, the generator does not fit them or makes NaN, or there are
            no true classes for the segmenter.
    """
    scores = score_images(
        generator,
        dataset,
        statistics,
        direction=direction,
        limit=limit,
        batch_size=batch_size,
        device=device,
        segmenter=segmenter,
    )
    return summarise(scores, statistics, labelled=is_labelled(dataset))


def score_images(
    generator: nn.Module,
    dataset: PackedDataset,
    statistics: RealStatistics,
    *,
    direction: Direction,
    limit: int | None,
    batch_size: int,
    device: str | torch.device,
    segmenter: Segmenter | None = None,
    networks: Mapping[str, Similarity] | None = None,
) -> ImageScores:
    """Translates held-out images and measures each; arguments and errors as for `score_generator`.

    `networks` gives the similarities that are measured by a network, by their keys; the others are measured without.
    """
    measuring = measures_on(device)
    network = statistics.network.to(measuring)
    measures = _similarities(networks or {}) if dataset.test_is_paired else {}
    similarities: dict[str, list[Tensor]] = {name: [] for name in measures}
    features: list[Tensor] = []
    against_real: dict[str, list[NDArray[np.float64]]] = {name: [] for name in _AGAINST_REAL}
    confusions: list[NDArray[np.int64]] = []
    truth = dataset.split("test").ground_truth
    if segmenter is not None:
        check_segmentable(dataset, direction=direction)
    was_training = generator.training
    generator.eval()
    try:
        with torch.inference_mode():
            for inputs, targets in held_out_images(
                dataset, direction=direction, limit=limit, batch_size=batch_size, device=device
            ):
                generated = generator(inputs).float().to(measuring)
                _check_generated(generated, targets)
                rounded = to_uint8(generated)
                if segmenter is not None and truth is not None:
                    first = sum(map(len, features))
                    labels = [truth[row] for row in range(first, first + len(rounded))]
                    confusions.append(segmenter.confusions(rounded, labels))
                features.append(features_of(network, rounded).cpu())
                for name, numbers in against_real.items():
                    numbers.append(_AGAINST_REAL[name].measure(generated))
                for name, values in similarities.items():
                    values.append(measures[name](generated, targets.to(measuring)).cpu().double())
    finally:
        generator.train(was_training)
    count = sum(map(len, features))
    if count < 2:
        raise UserError(f"Dataset {dataset.folder} has {count} held-out images to translate; scores need at least two.")
    return ImageScores(
        similarities={name: torch.cat(values).numpy() for name, values in similarities.items()},
        features=torch.cat(features).numpy(),
        against_real=_beside_real(
            {name: np.concatenate(numbers) for name, numbers in against_real.items()},
            real_batches(dataset, direction=direction, batch_size=batch_size, limit=limit),
            dataset.values[direction.output.value],
        ),
        confusions=np.concatenate(confusions) if confusions else None,
    )


def _similarities(networks: Mapping[str, Similarity]) -> dict[str, Similarity]:
    """Returns the metrics that compare pairs of images and can be measured, in the catalogue's order."""
    found = {}
    for metric in METRICS:
        if isinstance(metric.measured, PerPair):
            measure = metric.measured.measure or networks.get(metric.key)
            if measure is not None:
                found[metric.key] = measure
    return found


def _beside_real(
    generated: dict[str, NDArray[np.float64]], real: Iterable[NDArray[Any]], values: ValuesConfig
) -> dict[str, BothSides]:
    """Measures real images [M, H, W, C] as generated ones were; returns the metrics that are defined on both."""
    measured: dict[str, list[NDArray[np.float64]]] = {name: [] for name in generated}
    for packed in real:
        images = to_unit_range(channels_first(packed), values)
        for name, numbers in measured.items():
            numbers.append(_AGAINST_REAL[name].measure(images))
    both = {name: BothSides(generated[name], np.concatenate(numbers)) for name, numbers in measured.items() if numbers}
    return {name: sides for name, sides in both.items() if _is_defined(_AGAINST_REAL[name], sides)}


def _is_defined(metric: AgainstReal, sides: BothSides) -> bool:
    return sides.real.size > 0 and np.isfinite(_against_real(metric, sides))


def _against_real(metric: AgainstReal, sides: BothSides) -> float:
    return float(metric.score(sides.generated.mean(axis=0), sides.real.mean(axis=0)))


def summarise(scores: ImageScores, statistics: RealStatistics, *, labelled: bool) -> dict[str, float]:
    """Turns measured images into scores: of pairs, then distances, of a segmenter's classes, and against real images.

    Args:
        scores: From `score_images`.
        statistics: Statistics of real images; their feature network decides which distances are measured.
        labelled: Whether the dataset has label maps or true classes, with which some distances are not measured.
    """
    summary = {name: float(values.mean()) for name, values in scores.similarities.items()}
    real = RealImages(statistics.features, statistics.gaussian)
    for metric in METRICS:
        of = metric.measured
        if isinstance(of, FromFeatures) and of.network == statistics.identity.name and (of.with_labels or not labelled):
            distance = of.measure(scores.features, real)
            summary[metric.key] = distance.value
            if distance.std is not None:
                summary[f"{metric.key}_std"] = distance.std
    for metric in METRICS:
        if isinstance(metric.measured, FromConfusions) and scores.confusions is not None:
            summary[metric.key] = metric.measured.measure(scores.confusions.sum(axis=0))
    for key, sides in scores.against_real.items():
        summary[key] = _against_real(_AGAINST_REAL[key], sides)
    return summary


def quality(scores: ImageScores, held_out: HeldOut) -> dict[str, Any]:
    """Returns the scores, the number of `images`, and the known `confidence` intervals by metric."""
    summary = summarise(scores, held_out.statistics, labelled=is_labelled(held_out.dataset))
    intervals = {
        key: _interval(BY_KEY[key], scores, held_out.statistics, value)
        for key, value in summary.items()
        if key in BY_KEY
    }
    known = {key: list(interval) for key, interval in intervals.items() if interval is not None}
    return summary | {"images": scores.num_images, "confidence": known}


def _interval(metric: Metric, scores: ImageScores, statistics: RealStatistics, value: float) -> Interval | None:
    match metric.measured:
        case PerPair():
            return confidence.bootstrap_interval(scores.similarities[metric.key])
        case FromFeatures(interval=interval):
            return interval(scores.features, RealImages(statistics.features, statistics.gaussian), value)
        case FromConfusions(measure=measure):
            assert scores.confusions is not None, "its score was computed from them"
            return confidence.confusions_interval(scores.confusions, measure)
        case AgainstReal(score=score):
            sides = scores.against_real[metric.key]
            real_K = sides.real.mean(axis=0)
            return confidence.means_interval(sides.generated, lambda means_RK: score(means_RK, real_K))


def _check_generated(generated: Tensor, targets: Tensor) -> None:
    if generated.shape[1:] != targets.shape[1:]:
        raise UserError(
            f"The generator makes images of (channels, height, width) {tuple(generated.shape[1:])}, but the dataset "
            f"has {tuple(targets.shape[1:])}; use the dataset that it was trained on."
        )
    if not torch.isfinite(generated).all():
        raise UserError("The generator makes images that hold NaN or infinity; its training has diverged.")
