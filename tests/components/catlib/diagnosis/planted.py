"""Small trainings with a planted failure, and healthy ones: what they are, how they run, and what is recorded of them.

`python -m tests.components.catlib.diagnosis.planted FOLDER [NAME …]` runs them below FOLDER, each in about a quarter
of a minute of one core, and writes `recordings/NAME.json`: what the rules read, and nothing else. The pictures are
those of the demos.
"""

from __future__ import annotations

import contextlib
import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from unittest import mock

import numpy as np
from PIL import Image

from components.catlib.config import (
    DatasetConfig,
    DistillConfig,
    EvaluateConfig,
    NormConfig,
    PruneConfig,
    RealStatsConfig,
    TeacherConfig,
    validate,
)
from components.catlib.data.packed import PackedDataset
from components.catlib.diagnosis.causes import (
    BATCH_NORM,
    COLLAPSE,
    CONSTANT_TEACHER,
    DISCRIMINATOR_WINS,
    LEARNING_RATE,
    SMALL_ALIGNMENT_BATCH,
    STUDENT_CAPACITY,
    Cause,
)
from components.dataset import stage as dataset_stage
from components.distill import stage as distill_stage
from components.evaluate import stage as evaluate_stage
from components.prune import stage as prune_stage
from components.real_stats import stage as real_stats_stage
from components.teacher import stage as teacher_stage

RECORDINGS = Path(__file__).parent / "recordings"
IMAGES = {"paired": 64, "unpaired": 40, "labels": 64}
SOURCES = {"paired": "builtin:satellite-to-relief", "unpaired": "builtin:satellite-to-relief-unpaired"}
BATCH_NORMS = {"kind": "batch", "track_running_stats": True}

Settings = dict[str, Any]
Data = Literal["paired", "unpaired", "labels"]

TEACHERS: dict[Data, Settings] = {
    "paired": {
        "family": "pix2pix",
        "generator": {"base_channels": 8, "num_blocks": 2, "norm": BATCH_NORMS},
        "discriminator": {"base_channels": 8, "num_layers": 2},
        "batch_size": 8,
        "epochs": 10,
        "decay_epochs": 10,
        "reconstruction": {"weight": 100},
        "learning_rate": 5e-4,
    },
    "unpaired": {
        "family": "cyclegan",
        "generator": {"base_channels": 6, "num_blocks": 2, "norm": BATCH_NORMS},
        "discriminator": {"base_channels": 8, "num_layers": 2},
        "batch_size": 4,
        "epochs": 4,
        "decay_epochs": 4,
        "learning_rate": 5e-4,
    },
    "labels": {
        "family": "spade",
        "generator": {
            "base_channels": 2,
            "norm": BATCH_NORMS,
            "spade_norm": "batch",
            "spade_hidden_channels": 12,
            "num_upsampling_layers": "normal",
            "init": "xavier",
        },
        "discriminator": {"base_channels": 8, "num_layers": 2, "init": "xavier"},
        "adversarial": "hinge",
        "perceptual": 0,
        "two_time_scales": True,
        "adam_betas": [0, 0.9],
        "batch_size": 8,
        "epochs": 8,
        "decay_epochs": 8,
        "learning_rate": 1e-3,
    },
}
STUDENT: Settings = {
    "family": "pix2pix",
    "batch_size": 8,
    "epochs": 10,
    "decay_epochs": 10,
    "reconstruction": {"weight": 100},
    "learning_rate": 1e-3,
}


@dataclass(frozen=True)
class Run:
    """A training.

    Attributes:
        cause: What is planted; None: nothing, it is healthy.
        data: The images.
        settings: What differs from the settings above; a mapping with another `kind` or `family` replaces the section.
        teacher: For a distillation, the name of the run that trains its teacher.
        budget: The student's share of the teacher's multiply-accumulates.
        min_channels: Channels that every layer of the student keeps.
    """

    cause: Cause | None
    data: Data = "paired"
    settings: Settings = field(default_factory=dict)
    teacher: str | None = None
    budget: str = "0.3x"
    min_channels: int = 2


BATCHED: Settings = {"norm": {"kind": "batch", "track_running_stats": False}}
STRONG: Settings = {"base_channels": 16, "num_layers": 3, "norm": BATCH_NORMS}
WEAK: Settings = {"base_channels": 1, "num_blocks": 1}
WON: Settings = {
    "reconstruction": {"weight": 2},
    "two_time_scales": True,
    "learning_rate": 4e-4,
    "epochs": 20,
    "generator": WEAK,
    "discriminator": STRONG,
}
UNHELD: Settings = {
    "adversarial": "hinge",
    "cycle": {"weight": 0},
    "identity": {"weight": 0},
    "learning_rate": 2e-3,
    "discriminator": {"base_channels": 16, "norm": BATCH_NORMS},
}
SMOKE: Settings = {"epochs": 1, "decay_epochs": 1, "learning_rate": 2e-4}
RUNS: dict[str, Run] = {
    "healthy": Run(None),
    "healthy-hinge": Run(None, settings={"adversarial": "hinge"}),
    "healthy-unpaired": Run(None, "unpaired"),
    "healthy-labels": Run(None, "labels"),
    "healthy-adversarial-alone": Run(None, settings={"reconstruction": {"weight": 0}}),
    "healthy-large-steps": Run(None, settings={"learning_rate": 0.005}),
    "healthy-brief": Run(None, settings=SMOKE),
    "healthy-distillation": Run(None, teacher="healthy"),
    "healthy-distillation-hinge": Run(None, settings={"adversarial": "hinge"}, teacher="healthy-hinge", budget="0.15x"),
    "healthy-distillation-mse": Run(None, settings={"distiller": "mse"}, teacher="healthy"),
    "discriminator-wins": Run(DISCRIMINATOR_WINS, settings=WON | {"adversarial": "hinge"}),
    "discriminator-wins-lsgan": Run(DISCRIMINATOR_WINS, settings=WON),
    "discriminator-wins-vanilla": Run(DISCRIMINATOR_WINS, settings=WON | {"adversarial": "vanilla", "seed": 1}),
    "collapse": Run(COLLAPSE, "unpaired", UNHELD),
    "learning-rate": Run(LEARNING_RATE, settings={"learning_rate": 0.02}),
    "learning-rate-hinge": Run(LEARNING_RATE, settings={"adversarial": "hinge", "learning_rate": 0.05}),
    "learning-rate-unpaired": Run(LEARNING_RATE, "unpaired", {"learning_rate": 0.05}),
    "learning-rate-labels": Run(LEARNING_RATE, "labels", {"learning_rate": 0.2}),
    "batch-norm": Run(BATCH_NORM, settings={"generator": BATCHED}),
    "batch-norm-unpaired": Run(BATCH_NORM, "unpaired", {"generator": {"norm": {"kind": "syncbatch"}}}),
    "constant-teacher": Run(CONSTANT_TEACHER, teacher="untrained"),
    "alignment-batch": Run(
        SMALL_ALIGNMENT_BATCH, settings={"batch_size": 2, "epochs": 3, "decay_epochs": 3}, teacher="healthy"
    ),
    "alignment-batch-centred": Run(
        SMALL_ALIGNMENT_BATCH,
        settings={
            "batch_size": 3,
            "epochs": 4,
            "decay_epochs": 4,
            "distiller": {"kind": "kernel_alignment", "centred": True},
        },
        teacher="healthy",
    ),
    "capacity": Run(STUDENT_CAPACITY, teacher="healthy", budget="0.05x", min_channels=1),
    "capacity-hinge": Run(
        STUDENT_CAPACITY, settings={"adversarial": "hinge"}, teacher="healthy-hinge", budget="0.05x", min_channels=1
    ),
}
TEACHERS_ONLY = {"untrained": Run(None, settings={"learning_rate": 1e-7, "epochs": 1, "decay_epochs": 1})}


def merged(settings: Settings, changes: Settings) -> Settings:
    """Returns settings with changes; a section of another kind or family replaces the one that is there."""
    result = dict(settings)
    for name, value in changes.items():
        before = result.get(name)
        same = isinstance(value, dict) and isinstance(before, dict)
        same = same and all(value.get(key, before.get(key)) == before.get(key) for key in ("kind", "family"))
        result[name] = merged(before, value) if same else value
    return result


# ---------------------------------------------------------------------------------------------------------- the stages


def images(folder: Path, data: Data) -> Path:
    """Packs the images of some trainings, once; returns the folder of `dataset` and `real_stats`."""
    place = folder / f"images-{data}"
    if not place.exists():
        settings: Settings = {"max_images": IMAGES[data], "load_size": 36, "crop_size": 32}
        if data == "labels":
            settings |= {"source": str(label_maps(folder)), "layout": "parallel", "num_labels": 4}
        else:
            settings["source"] = SOURCES[data]
        dataset_stage.run(DatasetConfig.model_validate(settings), output=place / "dataset")
        real_stats_stage.run(RealStatsConfig(), dataset=place / "dataset", output=place / "real_stats")
    return place


def label_maps(folder: Path) -> Path:
    """Writes satellite pictures with label maps of their brightness, in four classes."""
    packed = PackedDataset.open(images(folder, "paired") / "dataset")
    for split in ("train", "test"):
        for index, picture in enumerate(packed.split(split).source):
            labels = np.digitize(np.asarray(picture).mean(axis=2), (48, 96, 144)).astype(np.uint8)
            _write_pair(folder / "maps", split, index, labels, picture)
    return folder / "maps"


def _write_pair(folder: Path, split: str, index: int, first: np.ndarray, second: np.ndarray) -> None:
    for domain, pixels in (("A", first), ("B", second)):
        path = folder / f"{split}{domain}" / f"{index:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.asarray(pixels)).save(path)


def mixing_batches() -> contextlib.AbstractContextManager[object]:
    """Lets generators whose norms mix a batch be trained, which is refused otherwise."""
    return mock.patch.object(NormConfig, "depends_on_batch", False)


def train_teacher(folder: Path, name: str) -> Path:
    """Runs the teacher stage, once; returns the artifact."""
    run, output = (RUNS | TEACHERS_ONLY)[name], folder / name
    if not output.exists():
        settings = merged({**TEACHERS[run.data], "evaluations": 1}, run.settings)
        place = images(folder, run.data)
        with mixing_batches() if run.cause is BATCH_NORM else contextlib.nullcontext():
            config = validate(TeacherConfig, settings, where="teacher")
            teacher_stage.run(config, dataset=place / "dataset", real_stats=place / "real_stats", output=output)
    return output


def train_student(folder: Path, name: str) -> Path:
    """Prunes, distils and evaluates, once; returns the folder of the artifacts."""
    run, output = RUNS[name], folder / name
    assert run.teacher is not None
    teacher, place = train_teacher(folder, run.teacher), images(folder, run.data)
    if not (output / "evaluation").exists():
        data = {"dataset": place / "dataset", "real_stats": place / "real_stats"}
        prune = PruneConfig(min_channels=run.min_channels)
        prune_stage.run(prune, teacher=teacher, budget=run.budget, output=output / "student")
        config = validate(DistillConfig, merged({**STUDENT, "evaluations": 1}, run.settings), where="distill")
        distill_stage.run(config, teacher=teacher, student=output / "student", output=output / "distilled", **data)
        shown = EvaluateConfig(num_samples=1, latency_repeats=1)
        evaluate_stage.run(shown, student=output / "distilled", teacher=teacher, output=output / "evaluation", **data)
    return output


# --------------------------------------------------------------------------------------------------------- recordings


@dataclass(frozen=True)
class Recording:
    """What the rules read of a training."""

    stage: str
    config: Settings
    records: list[dict[str, Any]]
    evaluation: dict[str, Any] | None


def record(folder: Path, name: str) -> Recording:
    """Runs a training, unless it has run, and returns what the rules read of it."""
    if RUNS[name].teacher is None:
        artifact, stage, evaluation = train_teacher(folder, name), "teacher", None
    else:
        output = train_student(folder, name)
        artifact, stage = output / "distilled", "distill"
        evaluation = json.loads((output / "evaluation/metrics.json").read_text())
    config = json.loads((artifact / "manifest.json").read_text())["config"]
    records = [json.loads(line) for line in (artifact / "log.jsonl").read_text().splitlines()]
    return Recording(stage, config, [each for each in records if "signs" in each], evaluation)


def save(name: str, recording: Recording) -> None:
    """Writes a recording by columns, which takes a tenth of the room."""
    names = dict.fromkeys(key for each in recording.records for key in each["signs"])
    content: dict[str, Any] = {
        "stage": recording.stage,
        "config": {key: recording.config.get(key, {}) for key in ("adversarial", "batch_size", "distiller")},
        "of": recording.records[-1]["of"],
        "steps": [each["step"] for each in recording.records],
        "signs": {key: [_short(each["signs"].get(key)) for each in recording.records] for key in names},
    }
    if recording.evaluation is not None:
        kept = ("paper_macs", "frechet_random_features")
        content["evaluation"] = {
            "student": {key: recording.evaluation["student"][key] for key in kept},
            "teacher": {key: recording.evaluation["teacher"][key] for key in kept},
            "signs": recording.evaluation["signs"],
        }
    text = json.dumps(content, separators=(",", ":")).replace(',"', ',\n"') + "\n"
    (RECORDINGS / f"{name}.json").write_text(text)


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.3g}")


def load(name: str) -> Recording:
    """Reads a recording."""
    content = json.loads((RECORDINGS / f"{name}.json").read_text())
    records = [
        {
            "step": step,
            "of": content["of"],
            "signs": {key: values[row] for key, values in content["signs"].items() if values[row] is not None},
        }
        for row, step in enumerate(content["steps"])
    ]
    return Recording(content["stage"], content["config"], records, content.get("evaluation"))


if __name__ == "__main__":
    place = Path(sys.argv[1])
    place.mkdir(parents=True, exist_ok=True)
    for each in sys.argv[2:] or RUNS:
        save(each, record(place, each))
        print(each, flush=True)
