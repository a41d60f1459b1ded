"""How an evaluation was made, part by part; a report compares the parts before it shows two numbers side by side.

The catalogue names the parts that a metric depends on and holds the fixed ones; this module makes those that describe
the images and networks.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from components.catlib.config import RGB
from components.catlib.data.channels import described, shown_as
from components.catlib.metrics import confidence, kernel_distance
from components.catlib.metrics.catalogue import METRICS, OF_ALL, Part, measured_among
from components.catlib.metrics.held_out import HeldOut
from components.catlib.timing import WARMUP, Measured


def _lpips(held_out: HeldOut) -> dict[str, Any]:
    assert held_out.lpips is not None, "it was measured with it"
    return held_out.lpips.identity.model_dump()


def _segmentation(held_out: HeldOut) -> dict[str, Any]:
    assert held_out.segmenter is not None, "mIoU was measured with it"
    return held_out.segmenter.identity.model_dump(mode="json") | {
        "logits": "resized bilinearly to the size of the true classes, then the largest of a pixel",
        "ignored": "pixels without a scored class",
    }


def _kernel_distance(held_out: HeldOut) -> dict[str, Any]:
    most = min(len(held_out.input_names), len(held_out.statistics.features))
    return {
        "subsets": kernel_distance.SUBSETS,
        "subset_size": min(kernel_distance.SUBSET_SIZE, most),
        "seed": kernel_distance.SEED,
    }


_DESCRIBED: dict[str, Callable[[HeldOut], Any]] = {
    "num_images": lambda held_out: len(held_out.input_names),
    "direction": lambda held_out: held_out.direction,
    "size": lambda held_out: list(held_out.dataset.crop_size),
    "distance": lambda held_out: held_out.statistics.identity.distance_name,
    "features": lambda held_out: held_out.statistics.identity.model_dump(),
    "real_images": lambda held_out: held_out.statistics.protocol,
    "num_real_images": lambda held_out: held_out.statistics.count,
    "kernel_distance": _kernel_distance,
    "lpips": _lpips,
    "segmentation": _segmentation,
}

_parts = (*OF_ALL, *(part for metric in METRICS for part in metric.protocol))
_missing = {part.name for part in _parts if part.content is None} - _DESCRIBED.keys()
if _missing:
    raise ValueError(f"nothing describes these parts of the protocol: {', '.join(sorted(_missing))}")


def protocol(held_out: HeldOut, figures: Collection[str], latency: Measured) -> dict[str, Any]:
    """Describes how numbers were made, so that they are compared with others only where that makes sense.

    Args:
        held_out: The images and networks of the evaluation.
        figures: Names of the scores; parts that only other metrics depend on are left out.
        latency: A generator's time, for threads and repeats.

    Returns:
        The `protocol` of `metrics.json`.
    """
    parts = [*OF_ALL, *(part for metric in measured_among(figures) for part in metric.protocol)]
    return {
        "images": f"all {len(held_out.input_names)} test images, {held_out.direction.replace('_', ' ')}",
        "batch_size": held_out.batch_size,
        **_values(held_out),
        **{part.name: _content(part, held_out) for part in parts},
        "latency": {
            "device": "cpu",
            "batch_size": 1,
            "threads": latency.threads,
            "repeats": len(latency.seconds),
            "warmup": WARMUP,
            "spread": "low and high are the 10th and 90th percentile; teacher and student take turns",
        },
        "macs": "paper_macs: as budgets count them; true_macs: multiply-adds that are executed; for one image",
        "confidence": {
            "level": confidence.LEVEL,
            "method": "percentile bootstrap over generated images; for distances between sets, over what each image "
            "adds, found by leaving it out",
            "covers": "another sample of generated images of the same size; not that distances of few images are too "
            "large, and not the choice of real images",
            "resamples": confidence.RESAMPLES,
            "seed": confidence.SEED,
            "most_groups": confidence.MOST_GROUPS,
        },
    }


def _values(held_out: HeldOut) -> dict[str, Any]:
    """Describes pictures that are no 8-bit colours."""
    values = held_out.dataset.values
    if all(each == RGB for each in values.values()):
        return {}
    return {
        "values": {role: described(each) for role, each in values.items()},
        "pictures": {role: shown_as(each) for role, each in values.items()},
        "range": "similarities are in units of [-1, 1], the range of values",
        "channels": "networks of photographs see channels in threes, the last filled up with the last channel; their "
        "results are averaged",
    }


def _content(part: Part, held_out: HeldOut) -> Any:
    return _DESCRIBED[part.name](held_out) if part.content is None else part.content
