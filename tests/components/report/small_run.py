"""Writes the artifacts of a small run: everything that a report reads, without any training."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from pydantic import BaseModel

from components.catlib.artifacts import MANIFEST, file_sha256, read_manifest, writing
from components.catlib.config import (
    DatasetConfig,
    DistillConfig,
    EvaluateConfig,
    ExportConfig,
    GeneratorConfig,
    InceptionConfig,
    Pix2PixConfig,
    Pix2PixDistillConfig,
    PruneConfig,
    RealStatsConfig,
)
from components.catlib.latency.table import LatencyTable
from components.catlib.metrics.contest import IMAGE_SCORES_FILE
from components.catlib.metrics.segmentation import SEGMENTATION_FILE
from components.catlib.networks.architecture_files import write_architecture
from components.catlib.networks.families import Architecture, architecture_from_config
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.pruning.search import describe, prune
from tests.components.catlib.serving.models import write

SIZE = (16, 24)
COLOURS = {"type": "uint8", "channels": 3, "range": [0.0, 255.0]}
DIRECTION = "source_to_target"
SAMPLE_NAMES = ("alps", "delta", "atoll")
COLUMNS = ("input", "target", "teacher", "student")
INCEPTION = InceptionConfig(base_channels=8, num_blocks=2, channels_reduction_factor=4)


@dataclass
class SmallRun:
    """Folders of a run's artifacts; lists hold one per student, in the order of the budgets."""

    dataset: Path
    real_stats: Path
    teacher: Path
    students: list[Path] = field(default_factory=list)
    distilled: list[Path] = field(default_factory=list)
    evaluations: list[Path] = field(default_factory=list)
    exports: list[Path] = field(default_factory=list)

    def inputs(self) -> dict[str, Any]:
        """Returns them as arguments of the report stage."""
        return {
            "dataset": self.dataset,
            "real_stats": self.real_stats,
            "teacher": self.teacher,
            "students": self.students,
            "distilled": self.distilled,
            "evaluations": self.evaluations,
            "exports": self.exports,
        }


def write_small_run(
    folder: Path,
    *,
    budgets: tuple[str, ...] = ("0.5x", "0.2x"),
    generator: GeneratorConfig = INCEPTION,
    distillations: tuple[DistillConfig, ...] = (),
    table: LatencyTable | None = None,
) -> SmallRun:
    """Writes the artifacts of a run with a student, and maybe a distillation, per budget into an empty folder."""
    channels = 3 if generator.family == "inception" else 4
    size = SIZE if generator.family == "inception" else (32, 64)
    architecture = architecture_from_config(generator, in_channels=channels, out_channels=3, crop_size=size)
    run = SmallRun(folder / "dataset", folder / "real_stats", folder / "teacher")
    _write(run.dataset, DatasetConfig(), {}, summary=_dataset_summary(size))
    _write(run.real_stats, RealStatsConfig(), {"dataset": run.dataset})
    _write_training(run.teacher, Pix2PixConfig(), {"dataset": run.dataset, "real_stats": run.real_stats}, architecture)
    for number, budget in enumerate(budgets):
        distillation = distillations[number] if distillations else Pix2PixDistillConfig()
        _write_student(run, architecture, size, budget, number, folder, distillation, table)
    return run


def _write_student(
    run: SmallRun,
    teacher: Architecture,
    size: tuple[int, int],
    budget: str,
    number: int,
    folder: Path,
    distillation: DistillConfig,
    table: LatencyTable | None,
) -> None:
    random = np.random.default_rng(0)
    scales = {norm.name: random.random(norm.channels).astype(np.float32) for norm in teacher.prunable_norms()}
    pruning = prune(teacher, scales, input_size=size, budget=budget, config=PruneConfig(min_channels=1), table=table)
    for kind, folders in (("prune", run.students), ("distill", run.distilled), ("evaluate", run.evaluations),
                          ("export", run.exports)):  # fmt: skip
        folders.append(folder / f"{kind}-{number}")
    pruned, trained = run.students[-1], run.distilled[-1]
    files = {"pruning.json": describe(pruning)}
    _write(pruned, PruneConfig(), {"teacher": run.teacher}, files=files,
           then=lambda place: write_architecture(place, DIRECTION, pruning.architecture, size))  # fmt: skip
    data = {"dataset": run.dataset, "real_stats": run.real_stats}
    _write_training(trained, distillation, {**data, "teacher": run.teacher, "student": pruned}, pruning.architecture)
    evaluation = _evaluation(teacher, pruning.architecture, size, number)
    _write(run.evaluations[-1], EvaluateConfig(), {**data, "teacher": run.teacher, "student": trained},
           files={"metrics.json": evaluation, IMAGE_SCORES_FILE: _image_scores(evaluation)},
           then=_write_samples)  # fmt: skip
    _write(run.exports[-1], ExportConfig(), {"dataset": run.dataset, "student": trained},
           files={"export.json": _export_facts(number)},
           then=lambda place: _write_onnx_files(place, number))  # fmt: skip


def _write(
    folder: Path,
    config: BaseModel,
    inputs: dict[str, Path],
    *,
    kind: str = "",
    summary: dict[str, Any] | None = None,
    files: dict[str, Any] | None = None,
    then: Callable[[Path], object] = lambda _: None,
) -> None:
    kind = kind or type(config).__name__.removesuffix("Config").lower().replace("realstats", "real_stats")
    manifests = {name: read_manifest(path) for name, path in inputs.items()}
    with writing(folder, kind=kind, config=config, inputs=manifests) as writer:
        for name, content in (files or {}).items():
            writer.write_json(name, content)
        then(writer.folder)
        writer.summary = summary or {"metrics": {"steps": 4, "seconds": 1.5}}


def _dataset_summary(size: tuple[int, int]) -> dict[str, Any]:
    return {
        "pairing": "paired",
        "direction": "AtoB",
        "load_size": list(size),
        "crop_size": list(size),
        "images": {"train": {"source": 12, "target": 12}, "test": {"source": 5, "target": 5}},
        "provenance": {"source": "builtin:relief-to-satellite", "licences": {"relief": "MIT"}},
        "skipped": [],
        "metrics": {"train_images": 12},
    }


def _write_training(folder: Path, config: BaseModel, inputs: dict[str, Path], architecture: Architecture) -> None:
    distilled = "student" in inputs
    size = SIZE if architecture.family == "inception" else (32, 64)
    records: list[dict[str, Any]] = []
    for step in range(1, 41):
        losses = {"generator": 9 / step, "discriminator": 0.5, "adversarial": -0.1 * step}
        if distilled:
            losses |= {"distillation": -1.0, "misalignment_features.0": 0.1 / step}
        records.append({"step": step, "epoch": step // 10, "seconds": step, "images_per_second": 8.0,
                        "learning_rate": 2e-4, "losses": losses})  # fmt: skip
        if step % 20 == 0:
            scores = {"l1": 0.5 - step / 100, "ssim": 0.3, "frechet_random_features": 60.0 - step}
            records.append({"step": step, "epoch": step // 10, "scores": scores})

    def fill(place: Path) -> None:
        write_architecture(place, DIRECTION, architecture, size)
        (place / f"generator_{DIRECTION}.safetensors").write_bytes(b"weights of " + folder.name.encode())
        (place / "discriminator_target.safetensors").write_bytes(b"opponent")
        (place / "log.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
        for step in (20, 40):
            (place / f"samples_{step}.webp").write_bytes(picture((32, 24), shade=step))

    summary = {"metrics": {"steps": 40, "seconds": 40.0}, "sample_rows": ["source", "target", DIRECTION]}
    _write(folder, config, inputs, kind="distill" if distilled else "teacher", summary=summary, then=fill)


def _evaluation(teacher: Architecture, student: Architecture, size: tuple[int, int], number: int) -> dict[str, Any]:
    figures = {}
    for name, architecture, l1 in (("teacher", teacher, 0.2), ("student", student, 0.25 + number / 100)):
        figures[name] = {
            "l1": l1,
            "psnr": 20.0 - number,
            "ssim": 0.5 - number / 10,
            "frechet_random_features": 30.0 + number,
            "images": 5,
            "confidence": {"l1": [l1 - 0.01, l1 + 0.01], "psnr": [19.0, 21.0], "ssim": [0.4, 0.6]},
            "paper_macs": paper_macs(architecture, *size),
            "true_macs": true_macs(architecture, *size),
            "parameters": parameters(architecture),
            "latency_ms": {"median": 40.0 if name == "teacher" else 10.0, "low": 9.0, "high": 45.0},
        }
    ratio = {
        key: figures["teacher"][key] / figures["student"][key] for key in ("paper_macs", "true_macs", "parameters")
    }
    return {
        **figures,
        "ratio": ratio | {"latency": 4.0},
        "baseline": {"constant_l1": 0.4, "unchanged_input": {"l1": 0.6, "frechet_random_features": 70.0}},
        "protocol": {
            "num_images": 5,
            "direction": DIRECTION,
            "size": list(size),
            "distance": "frechet_random_features",
            "features": {"name": "random", "sha256": "0" * 64},
            "real_images": "real test images",
            "num_real_images": 5,
            "similarity": "per image",
            "latency": {"threads": 1 + number},
        },
        "samples": [
            {"name": name, **{column: f"samples/{i}_{column}.webp" for column in COLUMNS}}
            for i, name in enumerate(SAMPLE_NAMES)
        ],
    }  # fmt: skip


def _image_scores(evaluation: dict[str, Any]) -> dict[str, dict[str, list[float]]]:
    """Spreads the scores of pairs over five images."""
    return {
        name: {key: [evaluation[name][key] + spread for spread in (-0.02, -0.01, 0.0, 0.01, 0.02)]
               for key in ("l1", "psnr", "ssim")}
        for name in ("teacher", "student")
    }  # fmt: skip


def _write_samples(folder: Path) -> None:
    (folder / "samples").mkdir()
    for i in range(len(SAMPLE_NAMES)):
        for shade, column in enumerate(COLUMNS):
            (folder / f"samples/{i}_{column}.webp").write_bytes(picture((24, 16), shade=60 * shade + i))


def _write_onnx_files(folder: Path, number: int) -> None:
    for name, weight in (("model.onnx", 0.1 * (number + 1)), ("teacher.onnx", 0.05)):
        write(folder / name, np.full((3, 3), weight, np.float32), {"input_size": "16x24"})


def _export_facts(number: int) -> dict[str, Any]:
    timed = {"median": 0.004, "low": 0.003, "high": 0.005, "threads": 1}
    return {
        "file": "model.onnx",
        "bytes": 4 * (number + 1),
        "opset": 20,
        "input": {"name": "image", "shape": ["batch", 3, "4*height", "4*width"]},
        "output": {"name": "translated", "shape": ["batch", 3, "4*height", "4*width"]},
        "input_values": COLOURS,
        "output_values": COLOURS,
        "operators": {"Conv": 7, "Relu": 3},
        "parity": {"compared_on": "held-out images", "largest_difference": 2.5e-6, "tolerance": 1e-4},
        "latency": {"torch": timed, "onnxruntime": timed},
    }


def picture(size: tuple[int, int], *, shade: int) -> bytes:
    """Returns a WebP file of one grey."""
    file = io.BytesIO()
    Image.new("RGB", size, (shade, shade, 120)).save(file, "WEBP")
    return file.getvalue()


def rewrite(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    """Changes a JSON file of an artifact in place, and what its manifest says of it."""
    path = folder / name
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    manifest = json.loads((folder / MANIFEST).read_text())
    if name != MANIFEST:
        manifest["files"][name] = {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
        (folder / MANIFEST).write_text(json.dumps(manifest))


def add_segmentation(run: SmallRun, facts: dict[str, Any], *, miou: dict[str, float]) -> None:
    """Gives every evaluation what a segmenter has seen.

    Args:
        run: The run.
        facts: What `segmentation.json` holds.
        miou: Of "teacher" and "student".
    """

    def measured(metrics: dict[str, Any]) -> None:
        for name, value in miou.items():
            metrics[name]["miou"] = value
            metrics[name]["confidence"]["miou"] = [value - 2, value + 2]

    for evaluation in run.evaluations:
        (evaluation / SEGMENTATION_FILE).write_text("{}")
        rewrite(evaluation, SEGMENTATION_FILE, lambda content: content.update(facts))
        rewrite(evaluation, "metrics.json", measured)
