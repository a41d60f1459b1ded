"""Mean intersection over union of label maps, Cityscapes' measure.

Works on label maps that a segmentation network has predicted; 19 classes and the ignored label 255 are Cityscapes'.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLASS_NAMES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip
"""Cityscapes' scored classes, in the order of their numbers."""

CITYSCAPES_CLASSES = len(CLASS_NAMES)

SEGMENTATION_FILE = "segmentation.json"
"""The file of an evaluation with a segmenter that holds what `by_class` returns."""


def confusion_matrix(
    labels: NDArray[np.integer], predictions: NDArray[np.integer], *, num_classes: int = CITYSCAPES_CLASSES
) -> NDArray[np.int64]:
    """Counts pixels by true and predicted class; matrices of several images add up.

    Args:
        labels: True classes, any shape. Pixels outside 0 … num_classes − 1, such as 255 or −1, are ignored.
        predictions: Predicted classes, the same shape, in 0 … num_classes − 1 wherever the label is not ignored.
        num_classes: Number of classes.

    Returns:
        [num_classes, num_classes]: row = true class, column = predicted class.
    """
    assert labels.shape == predictions.shape, f"{labels.shape} and {predictions.shape} differ"
    counted = (labels >= 0) & (labels < num_classes)
    true = labels[counted].astype(np.int64)
    predicted = predictions[counted].astype(np.int64)
    assert not len(predicted) or 0 <= predicted.min() <= predicted.max() < num_classes, "a prediction is not a class"
    counts = np.bincount(true * num_classes + predicted, minlength=num_classes**2)
    return counts.reshape(num_classes, num_classes)


def intersection_over_union(confusion: NDArray[np.integer]) -> NDArray[np.float64]:
    """Computes per class: pixels of the class that were found / pixels that are of it or were taken for it.

    Args:
        confusion: [C, C] from `confusion_matrix`.

    Returns:
        [C] in [0, 1]; NaN for a class that is neither true nor predicted anywhere, 0 for one that is only predicted.
    """
    hits = np.diag(confusion).astype(np.float64)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - np.diag(confusion)
    return np.divide(hits, union, out=np.full(len(hits), np.nan), where=union > 0)


def mean_iou(confusion: NDArray[np.integer]) -> float:
    """Averages `intersection_over_union` over the classes that occur.

    Args:
        confusion: [C, C] from `confusion_matrix`.

    Returns:
        Percent, 0 to 100, not rounded.

    Raises:
        ValueError: No pixel was counted.
    """
    if not confusion.sum():
        raise ValueError("no labelled pixel to measure")
    return float(100 * np.nanmean(intersection_over_union(confusion)))


def by_class(confusions: Mapping[str, NDArray[np.integer]]) -> dict[str, Any]:
    """Describes class by class what a segmenter sees in the images of several generators.

    Args:
        confusions: Name of a generator -> [C, C] from `confusion_matrix`, with Cityscapes' classes.

    Returns:
        `classes`, their names, and for each of the `generators` the `iou` of every class in percent (None for a class
        that is neither true nor seen anywhere) and the `confusion`, pixels by true and by seen class.
    """
    return {
        "classes": list(CLASS_NAMES),
        "generators": {
            name: {
                "iou": [None if np.isnan(iou) else 100 * float(iou) for iou in intersection_over_union(confusion)],
                "confusion": confusion.tolist(),
            }
            for name, confusion in confusions.items()
        },
    }
