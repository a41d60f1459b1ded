"""Datasets of a few tiny images, and teachers and students that learn from them in seconds, for tests of stages."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
from safetensors.torch import load_file
from torch import Tensor

from components.catlib.config import DatasetConfig, DistillConfig, PruneConfig, RealStatsConfig, TeacherConfig, validate
from components.dataset import stage as dataset_stage
from components.prune import stage as prune_stage
from components.real_stats import stage as real_stats_stage
from components.teacher import stage as teacher_stage
from tests.components.catlib.data.image_folders import noise, write

Pairing = Literal["paired", "unpaired", "labels"]
SIZES = {"paired": 16, "unpaired": 16, "labels": 32}
TRAIN_IMAGES, TEST_IMAGES = 6, 3


def make_images(folder: Path, pairing: Pairing) -> dict[str, Any]:
    """Writes the images of a dataset into `images`; returns its section of a recipe."""
    side = SIZES[pairing]
    for split, count in {"train": TRAIN_IMAGES, "test": TEST_IMAGES}.items():
        for index in range(count):
            names = {"source": f"{split}A/{index}.png", "target": f"{split}B/{index}.png"}
            picture = noise(index, 4, 4).repeat(side // 4, axis=0).repeat(side // 4, axis=1)
            write(folder / "images" / names["target"], picture)
            if pairing == "labels":
                write(folder / "images" / names["source"], picture[..., 0] // 64)
                write(folder / "images" / f"{split}_instances/{index}.png", picture[..., 1] // 64)
            else:
                write(folder / "images" / names["source"], 255 - picture)
    layout = {"paired": "parallel", "unpaired": "unpaired", "labels": "parallel"}[pairing]
    return {
        "source": str(folder / "images"),
        "layout": layout,
        "load_size": side + 4,
        "crop_size": side,
        "num_labels": 4 if pairing == "labels" else None,
    }


def make_dataset(folder: Path, pairing: Pairing, **settings: Any) -> Path:
    """Packs a dataset and computes its statistics; returns the folder that holds `dataset` and `real_stats`."""
    config = make_images(folder, pairing)
    dataset_stage.run(DatasetConfig.model_validate(config | settings), output=folder / "dataset")
    real_stats_stage.run(RealStatsConfig(), dataset=folder / "dataset", output=folder / "real_stats")
    return folder


def training(**settings: Any) -> dict[str, Any]:
    """Returns what teachers and students of these tests have in common: 4 epochs of 3 steps."""
    return {"epochs": 2, "decay_epochs": 2, "batch_size": 2, "evaluations": 2, **settings}


def teacher_config(family: Literal["pix2pix", "cyclegan", "spade"], **settings: Any) -> TeacherConfig:
    """Returns the configuration of a tiny teacher."""
    generator: dict[str, Any] = {"base_channels": 4, "num_blocks": 3, "kernel_sizes": [1, 3]}
    discriminator: dict[str, Any] = {"base_channels": 4, "num_layers": 1}
    further: dict[str, Any] = {"image_pool_size": 3} if family == "cyclegan" else {}
    if family == "spade":
        generator = {
            "base_channels": 2,
            "num_upsampling_layers": "normal",
            "norm": {"kind": "batch", "track_running_stats": True},
            "spade_norm": "batch",
            "spade_hidden_channels": 12,
        }
        further = {"perceptual": 0, "two_time_scales": True, "adversarial": "hinge"}
    own = training(family=family, generator=generator, discriminator=discriminator, **further)
    return validate(TeacherConfig, own | settings, where="teacher")


def make_teacher(data: Path, output: Path, config: TeacherConfig, checkpoint: Path | str | None = None) -> Path:
    """Runs the teacher stage."""
    teacher_stage.run(
        config,
        dataset=data / "dataset",
        real_stats=data / "real_stats",
        output=output,
        checkpoint=None if checkpoint is None else str(checkpoint),
    )
    return output


def make_student(teacher: Path, output: Path, *, budget: str = "0.5x", **settings: Any) -> Path:
    """Runs the prune stage."""
    prune_stage.run(PruneConfig(min_channels=2, **settings), teacher=teacher, budget=budget, output=output)
    return output


def distill_config(family: Literal["pix2pix", "cyclegan", "spade"], **settings: Any) -> DistillConfig:
    """Returns the configuration of a short distillation."""
    further = {"perceptual": 0} if family == "spade" else {}
    return validate(DistillConfig, training(family=family, **further) | settings, where="distill")


def weights(folder: Path) -> dict[str, Tensor]:
    """Returns the tensors of all networks of an artifact."""
    return {
        f"{path.stem}.{name}": tensor
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
    }


def assert_same_weights(first: Path, second: Path) -> None:
    """Compares two artifacts tensor by tensor, bit by bit."""
    ours, theirs = weights(first), weights(second)
    assert ours
    assert ours.keys() == theirs.keys()
    different = [name for name, tensor in ours.items() if not np.array_equal(tensor.numpy(), theirs[name].numpy())]
    assert not different
