"""Scores of a generator on held-out images, the same ones during training and in the final evaluation.

| key | meaning | better | when |
|---|---|---|---|
| `l1` | mean absolute difference to the true target, in units of [-1, 1] | lower | the split has true pairs |
| `psnr` | peak signal-to-noise ratio to the true target, dB | higher | the split has true pairs |
| `ssim` | structural similarity to the true target | higher | the split has true pairs |
| `fid` | Fréchet distance of Inception features | lower | statistics of Inception features |
| `kid`, `kid_std` | kernel distance of Inception features, its spread over subsets | lower | the same, no label maps |
| `frechet_random_features` | Fréchet distance of random features | lower | statistics of random features |
| `miou` | mean intersection over union of a segmenter's classes with the true ones, percent | higher | a segmenter |
| `lpips` | how different a recognition network finds it from the true target | lower | true pairs, its network |

L1, PSNR, SSIM and LPIPS take the generator's output as it is; features are computed from images rounded to 8 bits, and
segmenters see those.

Shape suffixes: N images, C channels, H height, W width, D features.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.catlib.data.batches import evaluation_batches
from components.catlib.data.image_conversion import to_uint8
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.kernel_distance import kernel_distance
from components.catlib.metrics.perceptual_similarity import Lpips
from components.catlib.metrics.segmentation import mean_iou
from components.catlib.metrics.segmenters import Segmenter, check_segmentable
from components.catlib.metrics.similarity import HIGHEST_PSNR, l1_distance, psnr, ssim
from components.catlib.metrics.statistics import RealStatistics

Similarity = Callable[[Tensor, Tensor], Tensor]

SIMILARITIES: dict[str, Similarity] = {"l1": l1_distance, "psnr": psnr, "ssim": ssim}
"""From generated images and their targets [N, 3, H, W] to [N]."""

HIGHEST = {"psnr": HIGHEST_PSNR, "ssim": 1.0, "miou": 100.0}
"""The scores of which higher is better, and the best value that each can have."""


@dataclass(frozen=True)
class ImageScores:
    """What was measured of each generated image.

    Attributes:
        similarities: `l1`, `psnr`, `ssim` and perhaps `lpips`, each float64 [N]; empty when there are no true targets.
        features: Features of the 8-bit images [N, D], float32.
        confusions: Pixels by true class and by the class that a segmenter sees [N, 19, 19]; None without a segmenter.
    """

    similarities: dict[str, NDArray[np.float64]]
    features: NDArray[np.float32]
    confusions: NDArray[np.int64] | None = None

    @property
    def num_images(self) -> int:
        """How many images were generated."""
        return len(self.features)


def score_generator(
    generator: nn.Module,
    dataset: PackedDataset,
    statistics: RealStatistics,
    *,
    direction: str = "source_to_target",
    limit: int | None = None,
    batch_size: int = 8,
    device: str | torch.device = "cpu",
    segmenter: Segmenter | None = None,
) -> dict[str, float]:
    """Translates held-out images and scores the result.

    Args:
        generator: From input images [N, C, H, W] to images [N, 3, H, W] in [-1, 1]. It is run in eval mode and left in
            the mode it came in.
        dataset: Whose test split is used.
        statistics: Of real images of the domain the generator translates to.
        direction: "source_to_target", or "target_to_source" for the second generator of CycleGAN.
        limit: Use only the first so many images.
        batch_size: Images per forward pass.
        device: Where the generator is.
        segmenter: Reads classes off the generated images, for mIoU.

    Returns:
        The scores of the module's table, all finite.

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
    return summarise(scores, statistics, kernel_distances=has_kernel_distance(dataset))


def has_kernel_distance(dataset: PackedDataset) -> bool:
    """Tells whether KID is measured: not for label maps and not for Cityscapes (method section 7)."""
    return dataset.pairing != "labels" and not dataset.has_ground_truth


def score_images(
    generator: nn.Module,
    dataset: PackedDataset,
    statistics: RealStatistics,
    *,
    direction: str,
    limit: int | None,
    batch_size: int,
    device: str | torch.device,
    segmenter: Segmenter | None = None,
    lpips: Lpips | None = None,
) -> ImageScores:
    """Translates held-out images and measures each; arguments and errors as for [score_generator][].

    With `lpips`, LPIPS is one of the similarities.
    """
    network = statistics.network.to(device)
    measures = SIMILARITIES | ({"lpips": lpips} if lpips is not None else {}) if dataset.test_is_paired else {}
    similarities: dict[str, list[Tensor]] = {name: [] for name in measures}
    features: list[Tensor] = []
    confusions: list[NDArray[np.int64]] = []
    truth = dataset.split("test").ground_truth
    if segmenter is not None:
        check_segmentable(dataset, direction=direction)
    was_training = generator.training
    generator.eval()
    try:
        with torch.inference_mode():
            for inputs, targets in held_out_images(dataset, direction=direction, limit=limit, batch_size=batch_size):
                generated = generator(inputs.to(device)).float()
                _check_generated(generated, targets)
                rounded = to_uint8(generated)
                if segmenter is not None and truth is not None:
                    first = sum(map(len, features))
                    labels = [truth[row] for row in range(first, first + len(rounded))]
                    confusions.append(segmenter.confusions(rounded, labels))
                features.append(network(rounded).cpu())
                for name, values in similarities.items():
                    values.append(measures[name](generated, targets.to(device)).double().cpu())
    finally:
        generator.train(was_training)
    count = sum(map(len, features))
    if count < 2:
        raise UserError(f"Dataset {dataset.folder} has {count} held-out images to translate, scores need at least two.")
    return ImageScores(
        similarities={name: torch.cat(values).numpy() for name, values in similarities.items()},
        features=torch.cat(features).numpy(),
        confusions=np.concatenate(confusions) if confusions else None,
    )


def summarise(scores: ImageScores, statistics: RealStatistics, *, kernel_distances: bool) -> dict[str, float]:
    """Turns measured images into the scores of the module's table.

    Args:
        scores: From [score_images][].
        statistics: Of real images.
        kernel_distances: Whether KID is wanted; it is left out when the features are not Inception's, too.
    """
    summary = {name: float(values.mean()) for name, values in scores.similarities.items()}
    generated = Gaussian.from_samples(scores.features)
    summary[statistics.identity.distance_name] = frechet_distance(generated, statistics.gaussian)
    if kernel_distances and statistics.identity.name == "inception":
        kid = kernel_distance(scores.features, statistics.features)
        summary |= {"kid": kid.mean, "kid_std": kid.std}
    if scores.confusions is not None:
        summary["miou"] = mean_iou(scores.confusions.sum(axis=0))
    return summary


def shortfall(metric: str, value: float) -> float:
    """Returns a score as a number ≥ 0 of which lower is better: what the better ones lack to their best value.

    An mIoU of 40 % lacks 60; an FID of 30 is 30. A kernel distance, being unbiased, may be slightly negative.
    """
    return HIGHEST[metric] - value if metric in HIGHEST else value


def held_out_images(
    dataset: PackedDataset, *, direction: str, limit: int | None, batch_size: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields batches of a generator's input images and of the images it should make of them.

    Args:
        dataset: Whose test split is used, in its order.
        direction: What the generator translates.
        limit: At most this many images.
        batch_size: Images per batch.

    Yields:
        Inputs [N, C, H, W] and targets [N, 3, H, W]; targets belong to the inputs when `dataset.test_is_paired`, else
        they are other images of the target domain, or none.

    Raises:
        UserError: The dataset cannot be translated in this direction.
    """
    if direction == "target_to_source" and dataset.pairing != "unpaired":
        raise UserError(f"Dataset {dataset.folder} is {dataset.pairing}; only unpaired data is translated {direction}.")
    for batch in evaluation_batches(dataset, batch_size=batch_size, limit=limit):
        inputs, targets = (
            (batch.source, batch.target) if direction == "source_to_target" else (batch.target, batch.source)
        )
        if len(inputs):
            yield inputs, targets


def _check_generated(generated: Tensor, targets: Tensor) -> None:
    if generated.shape[1:] != targets.shape[1:]:
        raise UserError(
            f"The generator makes images of (channels, height, width) {tuple(generated.shape[1:])}, the dataset has "
            f"{tuple(targets.shape[1:])}; use the dataset it was trained on."
        )
    if not torch.isfinite(generated).all():
        raise UserError("The generator makes images that hold NaN or infinity; its training has diverged.")
