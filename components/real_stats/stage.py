"""The real_stats stage: measures the real images that every feature distance is taken from."""

from __future__ import annotations

import dataclasses
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from components.catlib.artifacts import writing
from components.catlib.config import RealStatsConfig, WeightsConfig
from components.catlib.data.channels import to_8_bits
from components.catlib.data.packed import PackedDataset
from components.catlib.distributed.devices import measuring_device
from components.catlib.errors import UserError
from components.catlib.footprint.measuring import measuring_footprint
from components.catlib.footprint.stating import state
from components.catlib.metrics.features import (
    FID_WEIGHTS_SHA256,
    FeatureNetwork,
    RandomFeatures,
    read_inception,
)
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.statistics import STATISTICS_FILES, WEIGHTS_FILE, RealStatistics
from components.catlib.networks.directions import Direction, Domain
from components.catlib.networks.published.reading import load_statistics
from components.catlib.storage import local_copy

logger = logging.getLogger(__name__)


def run(config: RealStatsConfig, *, dataset: Path, output: Path) -> None:
    """Computes statistics of the real images that generated ones are compared with.

    Paired data and label maps: the real test images. Unpaired data: the real training and test images of the target
    domain, and in a second file those of the source domain, since CycleGAN also translates back (method section 7).

    Args:
        config: Feature network, and published statistics to use for the target domain.
        dataset: A dataset artifact.
        output: Where the artifact goes: `real_stats.npz`, for unpaired data `real_stats_source.npz`, and the weights of
            the feature network if it has any.

    Raises:
        UserError: There are fewer than two real images, or the weights or published statistics are not as expected.
    """
    packed = PackedDataset.open(dataset)
    published = None if config.published is None else _published(config.published)
    network = _network(config)
    device = measuring_device()
    needed = measuring_footprint(config.batch_size, packed.crop_size, inception=config.features == "inception")
    state("real-stats", needed, torch.device(device), savings="lower real_stats.batch_size")
    directions = list(Direction) if packed.pairing == "unpaired" else [Direction.SOURCE_TO_TARGET]
    with writing(output, kind="real_stats", config=config, inputs={"dataset": packed.manifest}) as writer:
        for direction in directions:
            domain = direction.output
            statistics = _statistics(network, packed, domain, batch_size=config.batch_size, device=device)
            writer.summary[f"{domain}_images"] = len(statistics.features)
            writer.summary[f"{domain}_protocol"] = statistics.protocol
            if published is not None and domain is Domain.TARGET:
                computed, statistics = statistics, _with_moments(statistics, published)
                writer.summary["published_protocol"] = statistics.protocol
                writer.summary["published_distance"] = frechet_distance(statistics.gaussian, computed.gaussian)
            statistics.save(writer.folder / STATISTICS_FILES[direction])
        if config.weights is not None and config.features == "inception":
            shutil.copyfile(local_copy(config.weights.uri), writer.folder / WEIGHTS_FILE)
        writer.summary["features"] = network.identity.model_dump()
        writer.summary["distance"] = network.identity.distance_name
        writer.summary["metrics"] = {
            "images": sum(writer.summary[f"{direction.output}_images"] for direction in directions),
            "features": network.identity.dims,
        }
    logger.info(
        "%s features of %d real images; distances to them are called %s",
        *(network.identity.name, writer.summary["metrics"]["images"], network.identity.distance_name),
    )


def _network(config: RealStatsConfig) -> FeatureNetwork:
    match config.features:
        case "inception":
            assert config.weights is not None, "validated by the recipe"
            return read_inception(local_copy(config.weights.uri), config.weights.sha256 or FID_WEIGHTS_SHA256)
        case "random":
            return RandomFeatures()


def _statistics(
    network: FeatureNetwork, dataset: PackedDataset, domain: Domain, *, batch_size: int, device: str
) -> RealStatistics:
    """Computes the statistics of the images of one domain that the protocol prescribes."""
    images = dataset.real_images(domain.value)
    height, width = dataset.crop_size
    protocol = (
        f"real {' and '.join(images)} images of the {domain} domain, resized once to {height}x{width} (height x width; "
        "bicubic), 8 bits"
    )
    return RealStatistics.of_images(
        network,
        (
            to_8_bits(some[start : start + batch_size], dataset.values[domain.value])
            for some in images.values()
            for start in range(0, len(some), batch_size)
        ),
        protocol=protocol,
        device=device,
    )


@dataclass(frozen=True)
class PublishedMoments:
    """Published statistics of the target domain: name of the file, mean [D] and covariance [D, D]."""

    file: str
    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]


def _published(config: WeightsConfig) -> PublishedMoments:
    """Reads and checks published statistics, before any slow work."""
    path = local_copy(config.uri)
    mu, sigma = load_statistics(path, sha256=config.sha256)
    try:
        Gaussian.from_moments(mu, sigma)
    except ValueError as error:
        raise UserError(f"{path} does not hold the statistics of images: {error}.") from error
    return PublishedMoments(path.name, mu, sigma)


def _with_moments(computed: RealStatistics, published: PublishedMoments) -> RealStatistics:
    """Replaces the computed mean and covariance by published ones.

    The features of the dataset's images stay: KID needs features, which published files do not hold.
    """
    return dataclasses.replace(
        computed,
        mu=published.mu,
        sigma=published.sigma,
        count=None,
        protocol=f"published statistics {published.file} (kernel distances: {computed.protocol})",
    )
