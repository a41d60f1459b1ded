"""The evaluate stage: a student, and its teacher beside it, on the held-out images."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from components.catlib.artifacts import ArtifactWriter, Manifest, writing
from components.catlib.config import EvaluateConfig
from components.catlib.data.image_conversion import to_uint8
from components.catlib.data.packed import PackedDataset
from components.catlib.data.pictures import labels_in_colour, strip
from components.catlib.errors import UserError
from components.catlib.fitting import check_fits
from components.catlib.metrics import confidence, kernel_distance
from components.catlib.metrics.baseline import best_constant_picture
from components.catlib.metrics.latency import WARMUP, Latency, measure_latency
from components.catlib.metrics.perceptual_similarity import Lpips, read_lpips
from components.catlib.metrics.scoring import (
    ImageScores,
    has_kernel_distance,
    held_out_images,
    score_generator,
    score_images,
    summarise,
)
from components.catlib.metrics.segmentation import CLASS_NAMES, SEGMENTATION_FILE, intersection_over_union
from components.catlib.metrics.segmenters import Segmenter, check_segmentable, read_segmenter
from components.catlib.metrics.statistics import RealStatistics, open_statistics
from components.catlib.networks.architecture_files import open_networks
from components.catlib.networks.directions import Direction, Domain
from components.catlib.networks.generators import Generator
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.networks.model_files import read_generator

logger = logging.getLogger(__name__)

COSTS = {"paper_macs": paper_macs, "true_macs": true_macs}


@dataclass(frozen=True)
class HeldOut:
    """What generators are measured with.

    Attributes:
        dataset: Its test split.
        statistics: Of the real images of the domain that is generated.
        direction: What the generators translate.
        batch_size: Images per forward pass.
        device: Where generators run while images are scored.
        segmenter: Reads classes off generated street scenes, for mIoU; None: that is not measured.
        lpips: Compares generated images with the true ones; None: that is not measured.
    """

    dataset: PackedDataset
    statistics: RealStatistics
    direction: Direction
    batch_size: int
    device: str
    segmenter: Segmenter | None = None
    lpips: Lpips | None = None

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the images that are translated."""
        split = self.dataset.split("test")
        return split.names if self.direction.input is Domain.SOURCE else split.target_names

    @property
    def kernel_distances(self) -> bool:
        """Whether KID is asked for."""
        return has_kernel_distance(self.dataset)


def run(
    config: EvaluateConfig,
    *,
    student: Path,
    dataset: Path,
    real_stats: Path,
    output: Path,
    teacher: Path | None = None,
) -> None:
    """Measures cost, quality and latency, and shows samples.

    Args:
        config: How many samples, repeats and images per pass; the networks that mIoU and LPIPS are measured with.
        student: A distill artifact, or a teacher artifact to measure a teacher alone. Of two generators (CycleGAN)
            source_to_target is measured.
        dataset: A dataset artifact; its test split is used.
        real_stats: A real_stats artifact of that dataset.
        output: Where the artifact goes: `metrics.json`, `grid.webp` and the pictures in it one by one in `samples/`;
            with a segmenter also `segmentation.json`, the IoU of every class and the confusion matrices.
        teacher: The student's teacher, for comparison.

    Raises:
        UserError: The artifacts do not belong together, the dataset has fewer than two test images or none that mIoU or
            LPIPS could be measured on, or the networks for those cannot be read.
    """
    networks = {"student": open_networks(student, "distill|teacher")}
    packed, statistics = PackedDataset.open(dataset), open_statistics(real_stats)
    inputs = {
        "student": networks["student"].manifest,
        "dataset": packed.manifest,
        "real_stats": statistics.manifest,
    }
    if teacher is not None:
        networks = {"teacher": open_networks(teacher, "teacher"), **networks}
        inputs["teacher"] = networks["teacher"].manifest
    _warn_of_other_dataset(inputs)
    direction = networks["student"].direction
    for each in networks.values():
        check_fits(each, packed, direction)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    held_out = HeldOut(
        dataset=packed,
        statistics=statistics.read(direction),
        direction=direction,
        batch_size=config.batch_size,
        device=device,
        segmenter=_segmenter(config, packed, direction, device),
        lpips=_lpips(config, packed, device),
    )
    generators = {name: read_generator(each, direction, device) for name, each in networks.items()}
    with writing(output, kind="evaluate", config=config, inputs=inputs) as writer:
        scores = {name: _scores(generator, held_out) for name, generator in generators.items()}
        facts = {name: _quality(each, held_out) for name, each in scores.items()}
        latencies = _latencies(generators, held_out, repeats=config.latency_repeats)
        for name, generator in generators.items():
            facts[name] |= _cost(generator, held_out.dataset.crop_size) | {"latency_ms": _milliseconds(latencies[name])}
        evaluation = {
            "student": facts["student"],
            "teacher": facts.get("teacher"),
            "ratio": _ratio(facts, latencies),
            "baseline": _baseline(held_out),
            "protocol": _protocol(held_out, latencies["student"]),
            "samples": _write_samples(writer, generators, held_out, count=config.num_samples),
        }
        writer.write_json("metrics.json", evaluation)
        if held_out.segmenter is not None:
            writer.write_json(SEGMENTATION_FILE, _segmentation(scores))
        writer.summary["metrics"] = _headline(evaluation)
        writer.summary["distance"] = held_out.statistics.identity.distance_name
    for name, figures in facts.items():
        logger.info("%s: %s", name, _described(figures, held_out.statistics.identity.distance_name))


# ----------------------------------------------------------------------------------------------------- what is measured


def _warn_of_other_dataset(inputs: dict[str, Manifest]) -> None:
    if inputs["real_stats"].inputs.get("dataset") != inputs["dataset"].digest():
        logger.warning("the statistics of real images were made from another dataset artifact than the one given")


def _segmenter(config: EvaluateConfig, dataset: PackedDataset, direction: Direction, device: str) -> Segmenter | None:
    if config.segmenter is None:
        if dataset.has_ground_truth:
            logger.info("mIoU is not measured: no evaluate.segmenter is given")
        return None
    check_segmentable(dataset, direction=direction)
    return read_segmenter(config.segmenter, device)


def _lpips(config: EvaluateConfig, dataset: PackedDataset, device: str) -> Lpips | None:
    if config.lpips is None:
        return None
    if not dataset.test_is_paired:
        raise UserError(
            f"LPIPS compares with true targets, which the test images of {dataset.folder} do not have; "
            "remove evaluate.lpips."
        )
    lpips = read_lpips(config.lpips, device)
    if min(dataset.crop_size) < lpips.smallest_side:
        raise UserError(
            f"LPIPS with the backbone {lpips.identity.backbone} needs images of at least {lpips.smallest_side} pixels "
            f"a side, those of {dataset.folder} are {dataset.crop_size}; remove evaluate.lpips."
        )
    return lpips


def _scores(generator: Generator, held_out: HeldOut) -> ImageScores:
    """Scores all held-out images."""
    return score_images(
        generator,
        held_out.dataset,
        held_out.statistics,
        direction=held_out.direction,
        limit=None,
        batch_size=held_out.batch_size,
        device=held_out.device,
        segmenter=held_out.segmenter,
        lpips=held_out.lpips,
    )


def _quality(scores: ImageScores, held_out: HeldOut) -> dict[str, Any]:
    """Returns the scores, each with its confidence interval; two images tell nothing about that of a distance."""
    statistics = held_out.statistics
    summary = summarise(scores, statistics, kernel_distances=held_out.kernel_distances)
    distance = statistics.identity.distance_name
    intervals: dict[str, confidence.Interval | None] = {
        name: confidence.bootstrap_interval(values) for name, values in scores.similarities.items()
    }
    intervals[distance] = confidence.frechet_interval(scores.features, statistics.gaussian, summary[distance])
    if "kid" in summary:
        intervals["kid"] = confidence.kernel_interval(scores.features, statistics.features, summary["kid"])
    if scores.confusions is not None:
        intervals["miou"] = confidence.miou_interval(scores.confusions)
    known = {name: list(interval) for name, interval in intervals.items() if interval is not None}
    return summary | {"images": scores.num_images, "confidence": known}


def _segmentation(scores: dict[str, ImageScores]) -> dict[str, Any]:
    """Returns for every generator the IoU of each class, and pixels by true and seen class."""
    confusions = {name: each.confusions.sum(axis=0) for name, each in scores.items() if each.confusions is not None}
    return {
        "classes": list(CLASS_NAMES),
        "generators": {
            name: {
                # Of a class that is neither there nor seen there is no IoU.
                "iou": [None if np.isnan(iou) else 100 * float(iou) for iou in intersection_over_union(confusion)],
                "confusion": confusion.tolist(),
            }
            for name, confusion in confusions.items()
        },
    }


def _cost(generator: Generator, size: tuple[int, int]) -> dict[str, int]:
    counts = {name: count(generator.architecture, *size) for name, count in COSTS.items()}
    return counts | {"parameters": parameters(generator.architecture)}


def _latencies(generators: dict[str, Generator], held_out: HeldOut, *, repeats: int) -> dict[str, Latency]:
    """Times all generators on the CPU, one image at a time, in turn."""
    image, _ = next(held_out_images(held_out.dataset, direction=held_out.direction, limit=1, batch_size=1))
    for generator in generators.values():
        generator.cpu()
    with torch.inference_mode():
        latencies = measure_latency(
            {name: lambda generator=generator: generator(image) for name, generator in generators.items()},
            repeats=repeats,
        )
    for generator in generators.values():
        generator.to(held_out.device)
    return latencies


def _milliseconds(latency: Latency) -> dict[str, float]:
    return {"median": 1e3 * latency.median, "low": 1e3 * latency.low, "high": 1e3 * latency.high}


def _ratio(facts: dict[str, dict[str, Any]], latencies: dict[str, Latency]) -> dict[str, float]:
    """Divides each cost of the teacher by the student's; empty without a teacher."""
    if "teacher" not in facts:
        return {}
    ratios = {name: facts["teacher"][name] / facts["student"][name] for name in (*COSTS, "parameters")}
    pairs = zip(latencies["teacher"].seconds, latencies["student"].seconds, strict=True)
    return ratios | {"latency": float(np.median([teacher / student for teacher, student in pairs]))}


def _baseline(held_out: HeldOut) -> dict[str, Any]:
    """Measures what takes no network: the best constant picture, and the input handed on unchanged."""
    dataset = held_out.dataset
    baseline: dict[str, Any] = {}
    if dataset.test_is_paired:
        constant = best_constant_picture(_target_batches(held_out))
        baseline |= {"constant_l1": constant.l1, "constant_colour": list(constant.colour)}
    if dataset.pairing != "labels":
        baseline["unchanged_input"] = score_generator(
            nn.Identity(),
            dataset,
            held_out.statistics,
            direction=held_out.direction,
            batch_size=held_out.batch_size,
            device=held_out.device,
        )
    return baseline


def _target_batches(held_out: HeldOut) -> Iterator[NDArray[np.uint8]]:
    split = held_out.dataset.split("test")
    images = split.target if held_out.direction.output is Domain.TARGET else split.source
    for start in range(0, len(images), held_out.batch_size):
        yield images[start : start + held_out.batch_size]


# --------------------------------------------------------------------------------------------------------- what is told


def _protocol(held_out: HeldOut, latency: Latency) -> dict[str, Any]:
    """Says how the numbers were made, so that they can be compared with others or must not be."""
    dataset, statistics = held_out.dataset, held_out.statistics
    num_inputs = len(held_out.input_names)
    protocol = {
        "images": f"all {num_inputs} test images, {held_out.direction.replace('_', ' ')}",
        "num_images": num_inputs,
        "direction": held_out.direction,
        "size": list(dataset.crop_size),
        "batch_size": held_out.batch_size,
        "resize": "originals resized straight to size (height, width), pictures bicubically with antialiasing, label "
        "maps by nearest pixel; no crop, no mirroring",
        "rounding": "generated images are rounded to the nearest of 256 grey values before features are computed",
        "distance": statistics.identity.distance_name,
        "features": statistics.identity.model_dump(),
        "real_images": statistics.protocol,
        "num_real_images": statistics.count,
        "latency": {
            "device": "cpu",
            "batch_size": 1,
            "threads": latency.threads,
            "repeats": len(latency.seconds),
            "warmup": WARMUP,
            "spread": "low and high are the 10th and 90th percentile; teacher and student take turns",
        },
        "macs": "paper_macs: as budgets count them; true_macs: multiply-adds that are executed; for one image",
    }
    if dataset.test_is_paired:
        protocol["similarity"] = (
            "l1, psnr, ssim: per image on unrounded output against the true target, range [-1, 1], then the mean; "
            "SSIM over the Gaussian windows of 11 pixels that lie within the image; PSNR at most 100 dB"
        )
    if held_out.lpips is not None:
        protocol["lpips"] = held_out.lpips.identity.model_dump()
    if held_out.segmenter is not None:
        protocol["segmentation"] = held_out.segmenter.identity.model_dump(mode="json") | {
            "logits": "resized bilinearly to the size of the true classes, then the largest of a pixel",
            "ignored": "pixels without a scored class",
        }
    protocol["confidence"] = {
        "level": confidence.LEVEL,
        "method": "percentile bootstrap over generated images; of distances between sets that of what each image adds, "
        "found by leaving it out",
        "covers": "other generated images, as many; not that distances of few images are too large, and not the choice "
        "of real images",
        "resamples": confidence.RESAMPLES,
        "seed": confidence.SEED,
        "most_groups": confidence.MOST_GROUPS,
    }
    if held_out.kernel_distances and statistics.identity.name == "inception":
        protocol["kernel_distance"] = {
            "subsets": kernel_distance.SUBSETS,
            "subset_size": min(kernel_distance.SUBSET_SIZE, num_inputs, len(statistics.features)),
            "seed": kernel_distance.SEED,
        }
    return protocol


def _headline(evaluation: dict[str, Any]) -> dict[str, float]:
    """Returns the figures that stand for the artifact, flat, such as `student_l1` and `latency_ratio`."""
    figures: dict[str, float] = {}
    for name in ("student", "teacher"):
        for key, value in (evaluation[name] or {}).items():
            if isinstance(value, int | float):
                figures[f"{name}_{key}"] = value
            elif key == "latency_ms":
                figures[f"{name}_latency_ms"] = value["median"]
    figures |= {f"{key}_ratio": value for key, value in evaluation["ratio"].items()}
    if "constant_l1" in evaluation["baseline"]:
        figures["constant_l1"] = evaluation["baseline"]["constant_l1"]
    return figures


def _described(figures: dict[str, Any], distance: str) -> str:
    names = ("miou", "l1", "psnr", "ssim", "lpips", distance, "kid")
    shown = [f"{name} {figures[name]:.4g}" for name in names if name in figures]
    return ", ".join([
        *shown,
        f"{figures['paper_macs'] / 1e9:.3g} G MACs",
        f"{figures['parameters'] / 1e6:.3g} M parameters",
        f"{figures['latency_ms']['median']:.1f} ms per image on the CPU",
    ])  # fmt: skip


# --------------------------------------------------------------------------------------------------------- what is seen


def _write_samples(
    writer: ArtifactWriter, generators: dict[str, Generator], held_out: HeldOut, *, count: int
) -> list[dict[str, str]]:
    """Writes the grid (a row per sample: input, target, teacher, student) and each of its pictures.

    Returns:
        Per sample: its name, and the files of its pictures.
    """
    (writer.folder / "samples").mkdir()
    samples: list[dict[str, str]] = []
    rows: list[Tensor] = []
    for index, pictures in _sample_pictures(generators, held_out, count=count):
        number = f"{len(samples):02d}"
        files = {column: f"samples/{number}_{column}.webp" for column in pictures}
        for column, picture in pictures.items():
            (writer.folder / files[column]).write_bytes(strip([picture], height=picture.shape[2]))
        samples.append({"name": held_out.input_names[index], **files})
        rows.append(torch.cat(list(pictures.values())))
    (writer.folder / "grid.webp").write_bytes(strip(rows, height=rows[0].shape[2]))
    return samples


@torch.inference_mode()
def _sample_pictures(
    generators: dict[str, Generator], held_out: HeldOut, *, count: int
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yields test images spread evenly over the split, with what is made of them.

    Yields:
        Index of the image, and by column uint8 [1, 3, H, W]: input, target if there is a true one, teacher, student.
    """
    dataset = held_out.dataset
    num_inputs = len(held_out.input_names)
    chosen = set(np.linspace(0, num_inputs - 1, min(count, num_inputs)).round().astype(int).tolist())
    images = held_out_images(dataset, direction=held_out.direction, limit=None, batch_size=1)
    for index, (inputs, target) in enumerate(images):
        if index not in chosen:
            continue
        shown = to_uint8(inputs) if dataset.num_labels is None else labels_in_colour(inputs, dataset.num_labels)
        pictures = {"input": shown}
        if dataset.test_is_paired:
            pictures["target"] = to_uint8(target)
        for name, generator in generators.items():
            pictures[name] = to_uint8(generator(inputs.to(held_out.device)).cpu())
        yield index, pictures
