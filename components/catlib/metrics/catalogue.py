"""Every metric in one table: its name, direction and best value, its computation, and what it depends on.

Scoring, the choice of weights, the evaluation's protocol, the report and Kubeflow's pages read this table. A metric
that is missing here does not exist; one that is incomplete stops this module from being imported. A new metric is a
function in a file of this folder and an entry here.

The functions here load no torch: pages of a report are written without it.

Shape suffixes: N generated images, M real images, D features, C classes, K numbers of an image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from components.catlib.metrics import confidence
from components.catlib.metrics.checkerboards import largest_ratio, peaks
from components.catlib.metrics.confidence import Interval
from components.catlib.metrics.frechet import Gaussian, frechet_distance
from components.catlib.metrics.kernel_distance import kernel_distance
from components.catlib.metrics.segmentation import mean_iou
from components.catlib.metrics.sharpness import energy_ratio, gradient_energy
from components.catlib.metrics.similarity import HIGHEST_PSNR, l1_distance, psnr, ssim

if TYPE_CHECKING:
    from torch import Tensor

Features = NDArray[np.float32]
Confusions = NDArray[np.int64]
Numbers = NDArray[np.float64]

# ------------------------------------------------------------------------------------------------------- how it is made


@dataclass(frozen=True)
class RealImages:
    """The real images that distances are measured from.

    Attributes:
        features: Their features [M, D], float32.
        gaussian: Their distribution.
    """

    features: Features
    gaussian: Gaussian


class Distance(NamedTuple):
    """A distance between two sets of images; `std` is its standard deviation if it is a mean over repeats."""

    value: float
    std: float | None = None


@dataclass(frozen=True, kw_only=True)
class PerPair:
    """Computed for each generated image and its true target, where there are true targets; the score is the mean.

    The interval resamples the images.

    Attributes:
        measure: Takes generated images and targets, float32 [N, 3, H, W] in [-1, 1], unrounded; returns [N]. None: a
            network that the recipe names measures it (`evaluate.<key>`).
    """

    measure: Callable[[Tensor, Tensor], Tensor] | None


@dataclass(frozen=True, kw_only=True)
class FromFeatures:
    """Computed from the features of all generated images, rounded to 8 bits, and those of real images.

    Attributes:
        network: The feature network whose features are taken.
        with_labels: Whether it is also measured on datasets with label maps or true classes.
        measure: Takes the generated images' features [N, D] and the real images.
        interval: Takes the same, and the distance; returns its confidence interval, None for too few images.
    """

    network: Literal["inception", "random"]
    with_labels: bool
    measure: Callable[[Features, RealImages], Distance]
    interval: Callable[[Features, RealImages, float], Interval | None]


@dataclass(frozen=True, kw_only=True)
class FromConfusions:
    """Computed from the classes that a segmenter sees in the generated images, rounded to 8 bits.

    The interval resamples the images.

    Attributes:
        measure: Takes pixels by true and seen class, summed over images [C, C]; returns the score.
    """

    measure: Callable[[Confusions], float]


@dataclass(frozen=True, kw_only=True)
class AgainstReal:
    """Computed from a few numbers of each generated image and of each real held-out image of the same domain.

    It needs no pairs. It is not measured without real images, or where it is not defined: images that are too small,
    or real images without any gradient. The interval resamples the generated images.

    Attributes:
        measure: Takes images, float32 [N, C, H, W] in [-1, 1], unrounded; returns float64 [N, K], with K = 0 if the
            images are too small.
        score: Takes the means of these numbers over generated images [..., K] and over real ones [K]; returns scores
            [...], which are not finite where they are not defined.
    """

    measure: Callable[[Tensor], Numbers]
    score: Callable[[Numbers, Numbers], Numbers]


def _frechet(generated_ND: Features, real: RealImages) -> Distance:
    return Distance(frechet_distance(Gaussian.from_samples(generated_ND), real.gaussian))


def _frechet_interval(generated_ND: Features, real: RealImages, value: float) -> Interval | None:
    return confidence.frechet_interval(generated_ND, real.gaussian, value)


def _kernel(generated_ND: Features, real: RealImages) -> Distance:
    distance = kernel_distance(generated_ND, real.features)
    return Distance(distance.mean, distance.std)


def _kernel_interval(generated_ND: Features, real: RealImages, value: float) -> Interval | None:
    return confidence.kernel_interval(generated_ND, real.features, value)


# ----------------------------------------------------------------------------------------------- what it depends on


@dataclass(frozen=True)
class Part:
    """A part of an evaluation's protocol; scores are compared only where the parts that they depend on are equal.

    Attributes:
        name: Its key in the `protocol` of `metrics.json`.
        content: Its value there; None if it depends on images or networks (`protocol.py` then describes those).
    """

    name: str
    content: Any = None


OF_ALL = (
    Part("num_images"),
    Part("direction"),
    Part("size"),
    Part(
        "resize",
        "originals resized straight to size (height, width), pictures bicubically with antialiasing, label "
        "maps by nearest pixel; no crop, no mirroring",
    ),
)
"""Parts that all metrics depend on."""

ROUNDING = Part(
    "rounding", "generated images are rounded to the nearest of 256 grey values before features are computed"
)
SIMILARITY = Part(
    "similarity",
    "l1, psnr, ssim: per image on unrounded output against the true target, range [-1, 1], then the mean; "
    "SSIM over the Gaussian windows of 11 pixels that lie within the image; PSNR at most 100 dB",
)
"""Do not extend it for new metrics: L1 can be compared with earlier values only while this text stays the same."""

FEATURES = (ROUNDING, Part("distance"), Part("features"), Part("real_images"), Part("num_real_images"))

# ------------------------------------------------------------------------------------------------------------ the table

_ARROWS = {"lower": "↓", "higher": "↑", "nearest": "→"}


@dataclass(frozen=True, kw_only=True)
class Metric:
    """A measure of quality. No field has a default, so none can be forgotten.

    Attributes:
        key: Its name in `metrics.json`, in logs and in Kubeflow.
        label: Its name on a page.
        unit: Written behind the number; "" for a plain number.
        better: Which direction is better; "nearest": values nearest to `best`.
        best: The best possible value.
        digits: Number of decimals shown.
        prominent: Whether a report shows it among its first figures even when another metric is the headline.
        meaning: One sentence that explains it to a reader of a report.
        caveat: Sentence that a report must add wherever it shows the metric; "" for none.
        measured: How it and its confidence interval are computed.
        protocol: Parts of the protocol that it depends on, besides those of all metrics.
    """

    key: str
    label: str
    unit: str
    better: Literal["lower", "higher", "nearest"]
    best: float
    digits: int
    prominent: bool
    meaning: str
    caveat: str
    measured: PerPair | FromFeatures | FromConfusions | AgainstReal
    protocol: tuple[Part, ...]

    def __post_init__(self) -> None:
        """Checks that nothing is left blank (ValueError)."""
        blank = [name for name in ("key", "label", "meaning", "protocol") if not getattr(self, name)]
        if blank:
            raise ValueError(f"the metric {self.key!r} has no {' and no '.join(blank)}")
        if self.better not in _ARROWS or not math.isfinite(self.best) or self.digits < 0:
            raise ValueError(
                f"the metric {self.key!r} is better {self.better!r}, best at {self.best}, shown with {self.digits} "
                "digits; expected lower, higher or nearest, a finite value, and at least 0 digits"
            )

    @property
    def heading(self) -> str:
        """Its name and direction: "L1, lower is better"."""
        return f"{self.label}, {self.goal}"

    @property
    def goal(self) -> str:
        """Its direction in words: "lower is better", "nearest to 1 is better"."""
        return f"nearest to {self.best:g} is better" if self.better == "nearest" else f"{self.better} is better"

    @property
    def arrow(self) -> str:
        """Its direction as a sign: "↓", "↑", "→ 1"."""
        return f"{_ARROWS[self.better]} {self.best:g}" if self.better == "nearest" else _ARROWS[self.better]

    def number(self, value: float) -> str:
        """Writes a value without its unit: "−0.25"."""
        return f"{value:.{self.digits}f}".replace("-", "−")

    def text(self, value: float) -> str:
        """Writes a value with its unit: "14.44 dB"."""
        return f"{self.number(value)} {self.unit}".strip()


METRICS = (
    Metric(
        key="miou",
        label="mIoU",
        unit="%",
        better="higher",
        best=100.0,
        digits=2,
        prominent=False,
        meaning="Mean intersection over union of the classes that a segmenter sees and the true ones.",
        caveat="",
        measured=FromConfusions(measure=mean_iou),
        protocol=(ROUNDING, Part("segmentation")),
    ),
    Metric(
        key="fid",
        label="FID",
        unit="",
        better="lower",
        best=0.0,
        digits=2,
        prominent=False,
        meaning="Fréchet distance between the Inception features of generated and of real images.",
        caveat="",
        measured=FromFeatures(network="inception", with_labels=True, measure=_frechet, interval=_frechet_interval),
        protocol=FEATURES,
    ),
    Metric(
        key="frechet_random_features",
        label="Fréchet distance (random features)",
        unit="",
        better="lower",
        best=0.0,
        digits=2,
        prominent=False,
        meaning="Fréchet distance between the features of generated and of real images in a fixed random network. It "
        "is not FID and cannot be compared with published FIDs.",
        caveat="The Fréchet distance uses the features of a fixed random network. It orders the generators of this "
        "page, but it is not FID and cannot be compared with published numbers.",
        measured=FromFeatures(network="random", with_labels=True, measure=_frechet, interval=_frechet_interval),
        protocol=FEATURES,
    ),
    Metric(
        key="kid",
        label="KID",
        unit="",
        better="lower",
        best=0.0,
        digits=4,
        prominent=False,
        meaning="Kernel distance between the Inception features of generated and of real images, mean over random "
        "subsets.",
        caveat="",
        measured=FromFeatures(network="inception", with_labels=False, measure=_kernel, interval=_kernel_interval),
        protocol=(*FEATURES, Part("kernel_distance")),
    ),
    Metric(
        key="l1",
        label="L1",
        unit="",
        better="lower",
        best=0.0,
        digits=3,
        prominent=True,
        meaning="Mean absolute difference to the true target; 0 for equal images, 2 for black in place of white.",
        caveat="",
        measured=PerPair(measure=l1_distance),
        protocol=(SIMILARITY,),
    ),
    Metric(
        key="psnr",
        label="PSNR",
        unit="dB",
        better="higher",
        best=HIGHEST_PSNR,
        digits=2,
        prominent=False,
        meaning="Peak signal-to-noise ratio against the true target.",
        caveat="",
        measured=PerPair(measure=psnr),
        protocol=(SIMILARITY,),
    ),
    Metric(
        key="ssim",
        label="SSIM",
        unit="",
        better="higher",
        best=1.0,
        digits=3,
        prominent=True,
        meaning="Structural similarity to the true target; 1 for equal images.",
        caveat="",
        measured=PerPair(measure=ssim),
        protocol=(SIMILARITY,),
    ),
    Metric(
        key="lpips",
        label="LPIPS",
        unit="",
        better="lower",
        best=0.0,
        digits=3,
        prominent=False,
        meaning="How different a recognition network finds an image from its true target; 0 for equal images.",
        caveat="",
        measured=PerPair(measure=None),
        protocol=(SIMILARITY, Part("lpips")),
    ),
    Metric(
        key="gradient_energy_ratio",
        label="Gradient energy",
        unit="",
        better="nearest",
        best=1.0,
        digits=2,
        prominent=False,
        meaning="Mean squared gradient of generated images divided by that of real ones; blurred images are below 1, "
        "noisy ones above.",
        caveat="",
        measured=AgainstReal(measure=gradient_energy, score=energy_ratio),
        protocol=(
            Part(
                "gradient_energy",
                "squared steps to the right and to the lower pixel, mean per image over all channels, on unrounded "
                "output; mean over generated images, divided by that over the real held-out images of their domain",
            ),
        ),
    ),
    Metric(
        key="checkerboard_ratio",
        label="Checkerboards",
        unit="",
        better="lower",
        best=1.0,
        digits=2,
        prominent=False,
        meaning="How much further the spectrum of generated images stands out at the periods of up-sampling, 2 and 4 "
        "pixels, than that of real ones; about 1 without checkerboards.",
        caveat="",
        measured=AgainstReal(measure=peaks, score=largest_ratio),
        protocol=(
            Part(
                "checkerboards",
                "power at periods of 2 and 4 pixels along rows and columns, over the geometric mean of the powers 2, 3 "
                "and 4 64ths of a cycle beside it; Hann windows of 64 pixels, all channels, unrounded output, power of "
                "8-bit rounding added; geometric mean over images, a dip counts as no peak; the largest ratio of "
                "generated images to the real held-out images of their domain",
            ),
        ),
    ),
)
"""The first of them that was measured is the headline; training keeps the weights that it finds best."""


def by_key(metrics: Sequence[Metric]) -> dict[str, Metric]:
    """Returns metrics by their keys.

    Raises:
        ValueError: Two share their key or label, or give one part of the protocol different contents.
    """
    for name in ("key", "label"):
        values = [getattr(metric, name) for metric in metrics]
        twice = sorted({value for value in values if values.count(value) > 1})
        if twice:
            raise ValueError(f"several metrics have the {name} {', '.join(twice)}")
    contents: dict[str, Any] = {}
    for part in (*OF_ALL, *(part for metric in metrics for part in metric.protocol)):
        if contents.setdefault(part.name, part.content) != part.content:
            raise ValueError(f"the part {part.name} of the protocol has different contents")
    return {metric.key: metric for metric in metrics}


BY_KEY = by_key(METRICS)


def measured_among(figures: Collection[str]) -> tuple[Metric, ...]:
    """Returns the metrics whose keys are among the figures, the headline first."""
    return tuple(metric for metric in METRICS if metric.key in figures)


def shortfall(metric: str, value: float) -> float:
    """Returns the distance of a score to the best possible value: lower is better.

    For an mIoU of 40 % it is 60, for an FID of 30 it is 30, for a gradient energy of 0.8 or 1.2 it is 0.2. A kernel
    distance is unbiased, so it may be slightly negative; so may checkerboards, where real images have more of them.

    Args:
        metric: Key of the metric.
        value: The score.
    """
    entry = BY_KEY[metric]
    if entry.better == "nearest":
        return abs(value - entry.best)
    return entry.best - value if entry.better == "higher" else value - entry.best


def distance_of(network: Literal["inception", "random"]) -> Metric:
    """Returns the metric that a feature network is judged by: FID for Inception, never for the random one."""
    return next(
        metric for metric in METRICS if isinstance(metric.measured, FromFeatures) and metric.measured.network == network
    )
