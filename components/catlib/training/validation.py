"""Scores generators on held-out images during training, and makes a picture of sample translations."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from components.catlib.config import TrainingConfig
from components.catlib.data.batches import evaluation_batches
from components.catlib.data.enough import check_held_out
from components.catlib.data.image_conversion import as_pictures
from components.catlib.data.packed import PackedDataset
from components.catlib.data.pictures import labels_in_colour, strip
from components.catlib.distributed.devices import measures_on
from components.catlib.fitting import check_segmentable
from components.catlib.metrics.catalogue import measured_among
from components.catlib.metrics.features import FeatureIdentity
from components.catlib.metrics.scoring import score_generator
from components.catlib.metrics.segmenters import read_segmenter
from components.catlib.metrics.statistics import OpenedStatistics, RealStatistics
from components.catlib.networks.directions import Direction, Domain
from components.catlib.training.progress import Evaluation

NUM_SAMPLES = 8
PICTURE_HEIGHT = 128


class Validation:
    """Scores generators on the same held-out images every time, and shows their translations of the first few.

    Attributes:
        rows: Names of the picture's rows, from the top: the domains of the real images ("source", "target"), then the
            directions of the generators whose images follow.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        statistics: OpenedStatistics,
        *,
        directions: list[Direction],
        config: TrainingConfig,
        device: torch.device,
    ) -> None:
        """Reads everything that the scores need, so that a lack is found before the training.

        Args:
            dataset: The dataset; its test split is used.
            statistics: Statistics of real images.
            directions: Directions of the generators that will be scored, the headline direction first.
            config: Supplies `evaluation_images`, `batch_size` and `segmenter`.
            device: The device of the generators.

        Raises:
            UserError: There are too few held-out images or no statistics for a direction, or the segmenter cannot be
                read, or there are no true classes to compare its output with.
        """
        self._dataset = dataset
        self._config = config
        self._device = device
        self._statistics = _sharing_networks({direction: statistics.read(direction) for direction in directions})
        inputs = {direction.input for direction in directions}
        check_held_out(dataset, sorted(domain.value for domain in inputs))
        for measured in self._statistics.values():
            measured.network.to(measures_on(device))
        self._segmenter = None
        if config.segmenter is not None:
            for direction in directions:
                check_segmentable(dataset, direction=direction)
            self._segmenter = read_segmenter(config.segmenter, measures_on(device))
        self._samples = next(evaluation_batches(dataset, batch_size=NUM_SAMPLES, limit=NUM_SAMPLES))
        shown = [domain for domain in Domain if domain in inputs or dataset.test_is_paired]
        self.rows = [name.value for name in (*shown, *directions)]

    def __call__(self, generators: Mapping[str, nn.Module]) -> Evaluation:
        """Scores generators, given by direction."""
        scores = {
            direction.value: score_generator(
                generators[direction],
                self._dataset,
                statistics,
                direction=direction,
                limit=self._config.evaluation_images,
                batch_size=self._config.batch_size,
                device=self._device,
                segmenter=self._segmenter,
            )
            for direction, statistics in self._statistics.items()
        }
        (chosen_by,) = {measured_among(each)[0].key for each in scores.values()}
        picture = strip([self._row(row, generators) for row in self.rows], height=PICTURE_HEIGHT)
        return Evaluation(scores, chosen_by, picture)

    def _row(self, row: str, generators: Mapping[str, nn.Module]) -> Tensor:
        images = {Domain.SOURCE: self._samples.source, Domain.TARGET: self._samples.target}
        if row in generators:
            return as_pictures(translate(generators[row], images[Direction(row).input].to(self._device)))
        domain = Domain(row)
        if domain is Domain.SOURCE and self._dataset.num_labels is not None:
            return labels_in_colour(images[domain], self._dataset.num_labels)
        return as_pictures(images[domain])


def _sharing_networks(statistics: dict[Direction, RealStatistics]) -> dict[Direction, RealStatistics]:
    """Returns statistics that use one feature network where they name the same, and not one each."""
    first: dict[FeatureIdentity, RealStatistics] = {}
    for each in statistics.values():
        same = first.setdefault(each.identity, each)
        vars(each)["network"] = same.network  # where `cached_property` keeps it
    return statistics


@torch.inference_mode()
def translate(generator: nn.Module, images: Tensor) -> Tensor:
    """Runs a generator in eval mode and restores its mode.

    Args:
        generator: A generator on the device of the images.
        images: [N, C, H, W], images in [-1, 1] or semantic planes.

    Returns:
        float32 [N, C, H, W] in [-1, 1].
    """
    was_training = generator.training
    generator.eval()
    translated = generator(images).float()
    generator.train(was_training)
    return translated
