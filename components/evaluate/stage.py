"""The evaluate stage: scores a student, and its teacher for comparison, on the held-out images."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from components.catlib.artifacts import ArtifactWriter, Manifest, writing
from components.catlib.config import EvaluateConfig
from components.catlib.data.enough import check_held_out
from components.catlib.data.image_conversion import as_pictures
from components.catlib.data.packed import PackedDataset
from components.catlib.data.pictures import labels_in_colour, strip
from components.catlib.distributed.devices import measuring_device
from components.catlib.fitting import check_comparable, check_fits, check_segmentable
from components.catlib.footprint.measuring import measuring_footprint
from components.catlib.footprint.networks import generator_activations
from components.catlib.footprint.stating import state
from components.catlib.metrics.baseline import baselines
from components.catlib.metrics.catalogue import measured_among
from components.catlib.metrics.contest import IMAGE_SCORES_FILE
from components.catlib.metrics.costs import cost_ratios, costs, time_generators
from components.catlib.metrics.held_out import HeldOut, held_out_images
from components.catlib.metrics.perceptual_similarity import Lpips, read_lpips
from components.catlib.metrics.protocol import protocol
from components.catlib.metrics.scoring import ImageScores, quality, score_images
from components.catlib.metrics.segmentation import SEGMENTATION_FILE, by_class
from components.catlib.metrics.segmenters import Segmenter, read_segmenter
from components.catlib.metrics.signs import NUM_IMAGES, look_at
from components.catlib.metrics.statistics import open_statistics
from components.catlib.networks.architecture import GeneratorArchitecture
from components.catlib.networks.architecture_files import open_networks
from components.catlib.networks.directions import Direction
from components.catlib.networks.generator import Generator
from components.catlib.networks.macs import parameters
from components.catlib.networks.model_files import read_generator

logger = logging.getLogger(__name__)


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
        output: Where the artifact goes: `metrics.json`, `image_scores.json` (the scores of every image that has a true
            target, by generator and metric), `grid.webp` and the pictures in it one by one in `samples/`; with a
            segmenter also `segmentation.json`, the IoU of every class and the confusion matrices.
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
    check_held_out(packed, [direction.input.value])
    device = measuring_device()
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
    _state_memory(config, held_out, [generator.architecture for generator in generators.values()])
    with writing(output, kind="evaluate", config=config, inputs=inputs) as writer:
        scores = {name: _scores(generator, held_out) for name, generator in generators.items()}
        latencies = time_generators(generators, held_out, repeats=config.latency_repeats)
        facts = {
            name: quality(scores[name], held_out) | costs(generator, held_out.dataset.crop_size, latencies[name])
            for name, generator in generators.items()
        }
        evaluation = {
            "student": facts["student"],
            "teacher": facts.get("teacher"),
            "ratio": cost_ratios(facts, latencies),
            "baseline": baselines(held_out),
            "signs": _signs(generators, held_out),
            "protocol": protocol(held_out, facts["student"], latencies["student"]),
            "samples": _write_samples(writer, generators, held_out, count=config.num_samples),
        }
        writer.write_json("metrics.json", evaluation)
        writer.write_json(IMAGE_SCORES_FILE, {name: each.by_image() for name, each in scores.items()})
        confusions = {name: each.confusions.sum(axis=0) for name, each in scores.items() if each.confusions is not None}
        if confusions:
            writer.write_json(SEGMENTATION_FILE, by_class(confusions))
        writer.summary["metrics"] = _headline(evaluation)
        writer.summary["distance"] = held_out.statistics.identity.distance_name
    for name, figures in facts.items():
        logger.info("%s: %s", name, _described(figures))


def _state_memory(config: EvaluateConfig, held_out: HeldOut, made: list[GeneratorArchitecture]) -> None:
    size = held_out.dataset.crop_size
    needed = measuring_footprint(
        config.batch_size,
        size,
        inception=held_out.statistics.identity.name != "random",
        weights=sum(map(parameters, made)),
        passing=max(generator_activations(each, size).passing for each in made),
        channels=made[0].in_channels + made[0].out_channels,
    )
    state("evaluate", needed, torch.device(held_out.device), savings="lower evaluate.batch_size")


# ----------------------------------------------------------------------------------------------------- what is measured


def _warn_of_other_dataset(inputs: dict[str, Manifest]) -> None:
    if inputs["real_stats"].inputs.get("dataset") != inputs["dataset"].digest():
        logger.warning("the statistics of real images were computed from another dataset artifact than the given one")


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
    check_comparable(config.lpips.backbone, dataset)
    return read_lpips(config.lpips, device)


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
        networks={"lpips": held_out.lpips} if held_out.lpips is not None else {},
    )


def _signs(generators: Mapping[str, Generator], held_out: HeldOut) -> dict[str, dict[str, float]]:
    """Returns the signs of health of each generator, on the first held-out images; empty without real images."""
    inputs, real = next(
        held_out_images(held_out.dataset, direction=held_out.direction, limit=NUM_IMAGES, batch_size=NUM_IMAGES)
    )
    if len(inputs) < 2 or len(real) < 2:
        return {}
    inputs, real = inputs.to(held_out.device), real.to(held_out.device)
    return {name: look_at(generator, inputs, real) for name, generator in generators.items()}


# ------------------------------------------------------------------------------------------------------ what is written


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


def _described(figures: dict[str, Any]) -> str:
    return ", ".join([
        *(f"{metric.key} {figures[metric.key]:.4g}" for metric in measured_among(figures)),
        f"{figures['paper_macs'] / 1e9:.3g} G MACs",
        f"{figures['parameters'] / 1e6:.3g} M parameters",
        f"{figures['latency_ms']['median']:.1f} ms per image on the CPU",
    ])  # fmt: skip


def _write_samples(
    writer: ArtifactWriter, generators: dict[str, Generator], held_out: HeldOut, *, count: int
) -> list[dict[str, str]]:
    """Writes the grid (a row per sample: input, target, teacher, student) and each of its pictures.

    Returns:
        For each sample its name and the files of its pictures.
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
    """Yields test images, spread evenly over the split, with their translations.

    Yields:
        Index of the image, and its pictures by column, uint8 [1, 3, H, W]: input, true target if known, teacher,
        student.
    """
    dataset = held_out.dataset
    num_inputs = len(held_out.input_names)
    chosen = set(np.linspace(0, num_inputs - 1, min(count, num_inputs)).round().astype(int).tolist())
    images = held_out_images(dataset, direction=held_out.direction, limit=None, batch_size=1)
    for index, (inputs, target) in enumerate(images):
        if index not in chosen:
            continue
        shown = as_pictures(inputs) if dataset.num_labels is None else labels_in_colour(inputs, dataset.num_labels)
        pictures = {"input": shown}
        if dataset.test_is_paired:
            pictures["target"] = as_pictures(target)
        for name, generator in generators.items():
            pictures[name] = as_pictures(generator(inputs.to(held_out.device)).cpu())
        yield index, pictures
