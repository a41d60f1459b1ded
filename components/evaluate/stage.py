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

from components.catlib.artifacts import ArtifactWriter, Manifest, read_manifest, writing
from components.catlib.config import EvaluateConfig
from components.catlib.data.packed import PackedDataset
from components.catlib.errors import UserError
from components.catlib.macs import paper_macs, parameters, true_macs
from components.catlib.metrics import confidence, kernel_distance
from components.catlib.metrics.baseline import best_constant_picture
from components.catlib.metrics.image_conversion import to_uint8
from components.catlib.metrics.latency import WARMUP, Latency, measure_latency
from components.catlib.metrics.scoring import held_out_images, score_generator, score_images, summarise
from components.catlib.metrics.statistics import RealStatistics, read_statistics
from components.catlib.networks.generators import Generator
from components.catlib.networks.model_files import read_architectures, read_generator
from components.catlib.pictures import labels_in_colour, strip

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
    """

    dataset: PackedDataset
    statistics: RealStatistics
    direction: str
    batch_size: int
    device: str

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the images that are translated."""
        split = self.dataset.split("test")
        return split.names if self.direction == "source_to_target" else split.target_names

    @property
    def kernel_distances(self) -> bool:
        """Whether KID is asked for: not for label maps (method section 7)."""
        return self.dataset.pairing != "labels"


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
        config: How many samples, repeats and images per pass.
        student: A distill artifact, or a teacher artifact to measure a teacher alone. Of two generators (CycleGAN)
            source_to_target is measured.
        dataset: A dataset artifact; its test split is used.
        real_stats: A real_stats artifact of that dataset.
        output: Where the artifact goes: `metrics.json`, `grid.webp` and the pictures in it one by one in `samples/`.
        teacher: The student's teacher, for comparison.

    Raises:
        UserError: The artifacts do not belong together, or the dataset has fewer than two test images.
    """
    inputs = {
        "student": read_manifest(student, "distill|teacher"),
        "dataset": read_manifest(dataset, "dataset"),
        "real_stats": read_manifest(real_stats, "real_stats"),
    }
    if teacher is not None:
        inputs["teacher"] = read_manifest(teacher, "teacher")
    _warn_of_other_dataset(inputs)
    direction = _direction(student)
    held_out = HeldOut(
        dataset=PackedDataset.open(dataset),
        statistics=read_statistics(real_stats, direction),
        direction=direction,
        batch_size=config.batch_size,
        device="cuda" if torch.cuda.is_available() else "cpu",
    )
    folders = {"teacher": teacher, "student": student}
    generators = {name: _generator(folder, held_out) for name, folder in folders.items() if folder is not None}
    with writing(output, kind="evaluate", config=config, inputs=inputs) as writer:
        facts = {name: _quality(generator, held_out) for name, generator in generators.items()}
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
        writer.summary["metrics"] = _headline(evaluation)
        writer.summary["distance"] = held_out.statistics.identity.distance_name
    for name, figures in facts.items():
        logger.info("%s: %s", name, _described(figures, held_out.statistics.identity.distance_name))


# ----------------------------------------------------------------------------------------------------- what is measured


def _direction(student: Path) -> str:
    directions = sorted(read_architectures(student).generators)
    if not directions:
        raise UserError(f"{student} holds no generator; give the output of the distill or the teacher stage.")
    return directions[0]


def _generator(folder: Path, held_out: HeldOut) -> Generator:
    """Reads a generator and checks that the dataset's images are what it was made for."""
    architectures = read_architectures(folder)
    architecture = architectures.generator(held_out.direction)
    dataset = held_out.dataset
    if architectures.input_size != dataset.crop_size:
        raise UserError(
            f"The generator in {folder} was made for images of (height, width) {architectures.input_size}, the dataset "
            f"has {dataset.crop_size}; give the dataset that it was trained on."
        )
    channels = architecture.in_channels if architecture.family == "inception" else architecture.semantic_channels
    if channels != (dataset.in_channels if held_out.direction == "source_to_target" else dataset.out_channels):
        raise UserError(
            f"The generator in {folder} takes inputs of {channels} channels, the dataset's have {dataset.in_channels}; "
            "give the dataset that it was trained on."
        )
    return read_generator(folder, held_out.direction, held_out.device)


def _warn_of_other_dataset(inputs: dict[str, Manifest]) -> None:
    if inputs["real_stats"].inputs.get("dataset") != inputs["dataset"].digest():
        logger.warning("the statistics of real images were made from another dataset artifact than the one given")


def _quality(generator: Generator, held_out: HeldOut) -> dict[str, Any]:
    """Scores all held-out images; similarities also get confidence intervals."""
    scores = score_images(
        generator,
        held_out.dataset,
        held_out.statistics,
        direction=held_out.direction,
        limit=None,
        batch_size=held_out.batch_size,
        device=held_out.device,
    )
    intervals = {name: list(confidence.bootstrap_interval(values)) for name, values in scores.similarities.items()}
    summary = summarise(scores, held_out.statistics, kernel_distances=held_out.kernel_distances)
    return summary | {"images": scores.num_images, "confidence": intervals}


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
    images = split.target if held_out.direction == "source_to_target" else split.source
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
            "SSIM with a Gaussian window of 11 pixels; PSNR at most 100 dB"
        )
        protocol["confidence"] = {
            "level": confidence.LEVEL,
            "method": "percentile bootstrap over images",
            "resamples": confidence.RESAMPLES,
            "seed": confidence.SEED,
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
    shown = [f"{name} {figures[name]:.4g}" for name in ("l1", "psnr", "ssim", distance, "kid") if name in figures]
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
