"""Statistics of real images, from which the feature distances of generated images are measured.

A statistics file (`.npz`) holds `mu` [D] and `sigma` [D, D], the layout in which others publish them, and beside them
`count`, `features` [N, D], `identity` and `protocol`. The real_stats stage writes one for the target domain and, when a
second generator translates back, one for the source domain; the weights of the feature network lie in the same folder,
so that later stages need nothing but that folder.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from components.catlib.artifacts import Manifest, read_manifest
from components.catlib.errors import UserError
from components.catlib.metrics.features import FeatureIdentity, FeatureNetwork, compute_features, load_feature_network
from components.catlib.metrics.frechet import Gaussian
from components.catlib.networks.directions import Direction
from components.catlib.networks.published.reading import read_arrays

STATISTICS_FILES = {
    Direction.SOURCE_TO_TARGET: "real_stats.npz",
    Direction.TARGET_TO_SOURCE: "real_stats_source.npz",
}
"""Files of statistics, of the target and of the source domain, by the direction of the generator to measure."""

WEIGHTS_FILE = "feature_network.pth"
"""Weights of the feature network, beside the statistics; the random network has none."""


@dataclass(frozen=True)
class RealStatistics:
    """Features of the real images of one domain.

    Attributes:
        mu: Mean feature vector [D], float64.
        sigma: Covariance [D, D] with divisor N − 1, float64.
        count: Number of images that `mu` and `sigma` describe; None for published ones, which do not record it.
        features: Features of the dataset's real images [N, D], float32; unless `mu` and `sigma` are published ones,
            they describe these.
        identity: The feature network.
        protocol: Which images they are, and how they were prepared, in words.
        weights: The file of the network's weights; None when it needs none.
    """

    mu: NDArray[np.float64]
    sigma: NDArray[np.float64]
    count: int | None
    features: NDArray[np.float32]
    identity: FeatureIdentity
    protocol: str
    weights: Path | None = None

    @classmethod
    def of_images(
        cls,
        network: FeatureNetwork,
        batches: Iterable[NDArray[np.uint8]],
        *,
        protocol: str,
        device: str = "cpu",
    ) -> RealStatistics:
        """Computes statistics of images.

        Args:
            network: Gives the features.
            batches: uint8 RGB [N, H, W, 3] each.
            protocol: Which images, in words.
            device: Where to compute.

        Raises:
            UserError: There are fewer than two images.
        """
        features = compute_features(network, batches, device)
        if len(features) < 2:
            raise UserError(f"Statistics of real images need at least two images, found {len(features)} ({protocol}).")
        exact = features.astype(np.float64)
        return cls(
            mu=exact.mean(axis=0),
            sigma=np.cov(exact, rowvar=False),
            count=len(features),
            features=features,
            identity=network.identity,
            protocol=protocol,
        )

    @classmethod
    def load(cls, path: Path) -> RealStatistics:
        """Reads a statistics file of this project.

        Raises:
            UserError: The file cannot be read, lacks something, or holds numbers that are not finite or do not fit.
        """
        again, names = "run the real-stats stage again", ("mu", "sigma", "count", "features", "identity", "protocol")
        try:
            arrays = read_arrays(path, names)
            if missing := [name for name in names if name not in arrays]:
                raise KeyError(f"it has no {missing[0]}")
            identity = FeatureIdentity.model_validate_json(str(arrays["identity"]))
            count = int(arrays["count"])
        except KeyError as error:
            raise UserError(f"{path} is not a statistics file of this project ({error.args[0]}); {again}.") from error
        except Exception as error:  # a damaged file can make the reader fail in any way
            reason = str(error).split("\n")[0]
            raise UserError(f"{path} is not a readable statistics file ({reason}); {again}.") from error
        shapes = {"mu": (identity.dims,), "sigma": (identity.dims, identity.dims)}
        shapes["features"] = (*arrays["features"].shape[:1], identity.dims)
        for name, shape in shapes.items():
            _check_numbers(path, name, arrays[name], shape)
        weights = path.with_name(WEIGHTS_FILE)
        return cls(
            mu=arrays["mu"].astype(np.float64),
            sigma=arrays["sigma"].astype(np.float64),
            count=count or None,
            features=arrays["features"].astype(np.float32),
            identity=identity,
            protocol=str(arrays["protocol"]),
            weights=weights if weights.is_file() else None,
        )

    def save(self, path: Path) -> None:
        """Writes the file that `load` reads; the weights of the network are not part of it."""
        np.savez(
            path,
            mu=self.mu,
            sigma=self.sigma,
            count=np.int64(self.count or 0),
            features=self.features,
            identity=np.array(self.identity.model_dump_json()),
            protocol=np.array(self.protocol),
        )

    @cached_property
    def gaussian(self) -> Gaussian:
        """The normal distribution with this mean and covariance."""
        if self.count is None:
            return Gaussian.from_moments(self.mu, self.sigma)
        return Gaussian.from_samples(self.features)

    @cached_property
    def network(self) -> FeatureNetwork:
        """The feature network, loaded on first use.

        Raises:
            UserError: Its weights are missing, or this release has another network of that name.
        """
        return load_feature_network(self.identity, self.weights)


@dataclass(frozen=True)
class OpenedStatistics:
    """A real_stats artifact, opened: its files are read when they are needed.

    Attributes:
        folder: Where the files lie.
        manifest: Manifest of the artifact.
    """

    folder: Path
    manifest: Manifest

    def read(self, direction: Direction) -> RealStatistics:
        """Reads the statistics that the images of a generator are compared with.

        Args:
            direction: What the generator translates.

        Raises:
            UserError: There are no statistics for this direction, or the file is damaged.
        """
        file = STATISTICS_FILES[direction]
        if file not in self.manifest.files:
            raise UserError(
                f"{self.folder} has no {file}, which the scores of a generator {direction} need; "
                "the real-stats stage writes it for unpaired datasets only."
            )
        return RealStatistics.load(self.folder / file)


def open_statistics(folder: Path) -> OpenedStatistics:
    """Opens a real_stats artifact.

    Raises:
        UserError: The folder is not such an artifact, or files are missing.
    """
    return OpenedStatistics(folder, read_manifest(folder, "real_stats"))


def _check_numbers(path: Path, name: str, array: NDArray[Any], shape: tuple[int, ...]) -> None:
    if array.shape != shape or not np.issubdtype(array.dtype, np.floating):
        raise UserError(f"{path}: {name} is {array.dtype} {list(array.shape)}, expected floats {list(shape)}.")
    if not np.isfinite(array).all():
        raise UserError(f"{path}: {name} holds NaN or infinity; run the real-stats stage again.")
