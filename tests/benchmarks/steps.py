"""Forms of an optimisation step: the plain one, the pipeline's, and the pipeline's with other settings (`VARIANTS`)."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from components.catlib.config import DistillConfig, PruneConfig, TeacherConfig, validate
from components.catlib.config.training import FAST
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.networks.directions import Direction
from components.catlib.networks.families import build_generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.macs import true_macs
from components.catlib.objectives.distillation import distillation_objective
from components.catlib.pruning.search import prune
from components.catlib.training.building import build_teacher_objective
from pipelines.step_costs import student_work, teacher_work
from tests.benchmarks.forms import Forms
from tests.benchmarks.plain_networks import plain_discriminator, plain_generator
from tests.benchmarks.plain_steps import PLAIN_STEPS


@dataclass(frozen=True)
class Variant:
    """The pipeline's step with other settings of the section `teacher` or `distill`; it needs no more than its line.

    Attributes:
        settings: What differs from the section's defaults.
        devices: Where it is worth timing.
        exact: Whether it computes the same up to float32's rounding.
    """

    settings: Mapping[str, Any]
    devices: tuple[str, ...] = ("cuda",)
    exact: bool = True


VARIANTS = {
    "ours": Variant({}, devices=("cpu", "cuda")),
    "channels last": Variant({"channels_last": True}, devices=("cpu", "cuda")),
    "fused": Variant({"fuse_branches": True}, devices=("cpu", "cuda")),
    "fused, channels last": Variant({"fuse_branches": True, "channels_last": True}, devices=("cpu", "cuda")),
    "TF32": Variant({"tf32": True}, exact=False),
    "bf16": Variant({"precision": "bf16", "tf32": True}, exact=False),
    "bf16, channels last": Variant({"precision": "bf16", "tf32": True, "channels_last": True}, exact=False),
    "speed: fast": Variant(FAST, exact=False),
}


@dataclass(frozen=True)
class Extent:
    """How large a step is.

    Attributes:
        size: Height and width of the images.
        batch: Images.
        width: Channels of the first layer of generator and discriminator.
        labels: Semantic planes.
        upsampling: How often a SPADE generator doubles the size.
        blocks: Blocks of the generator that translates images.
    """

    size: tuple[int, int]
    batch: int
    width: int
    labels: int = 8
    upsampling: str = "normal"
    blocks: int = 9

    def grown(self, axis: str, factor: float) -> Extent:
        """Returns it with "size", "batch" or "width" multiplied."""
        match axis:
            case "size":
                return replace(self, size=tuple(round(side * factor) for side in self.size))
            case "batch":
                return replace(self, batch=round(self.batch * factor))
            case _:
                return replace(self, width=round(self.width * factor))


EXTENTS = {
    "tiny": {
        "pix2pix": Extent((32, 32), 2, 4, blocks=3),
        "cyclegan": Extent((32, 32), 2, 4, blocks=3),
        "spade": Extent((32, 64), 2, 4),
    },
    "normal": {
        "pix2pix": Extent((128, 128), 4, 16),
        "cyclegan": Extent((64, 64), 4, 16),
        "spade": Extent((64, 128), 4, 16, labels=20),
    },
    "full": {
        "pix2pix": Extent((256, 256), 16, 64),
        "cyclegan": Extent((256, 256), 8, 64),
        "spade": Extent((256, 512), 4, 64, labels=36, upsampling="more"),
    },
}
"""Scale -> family -> extent; "full" has the published width and size, and a batch that the plain form can hold."""

BATCH_NORM = {"kind": "batch", "affine": True, "track_running_stats": True}
INSTANCE_NORM = {"kind": "instance", "affine": True, "track_running_stats": False}
SYNC_NORM = {"kind": "syncbatch", "affine": True, "track_running_stats": True}

WEIGHTS = {
    ("pix2pix", "teacher"): {"reconstruction": 100.0},
    ("pix2pix", "distill"): {"reconstruction": 100.0},
    ("cyclegan", "teacher"): {"cycle": 10.0, "identity": 0.5},
    ("cyclegan", "distill"): {"reconstruction": 5.0},
    ("spade", "teacher"): {"feature_matching": 10.0},
    ("spade", "distill"): {"feature_matching": 10.0},
}
"""Family, stage -> weights of the losses."""


def settings(family: str, stage: str, extent: Extent, **others: Any) -> dict[str, Any]:
    """Returns a recipe's section `teacher` or `distill`."""
    section: dict[str, Any] = {"family": family, "batch_size": extent.batch, **others}
    section |= {loss: {"weight": weight} for loss, weight in WEIGHTS[family, stage].items()}
    section["adversarial"] = "hinge" if family == "spade" else "lsgan"
    if family == "spade":
        section["perceptual"] = {"weight": 0}
    if stage == "distill":
        return section
    norm = {"pix2pix": BATCH_NORM, "cyclegan": INSTANCE_NORM, "spade": SYNC_NORM}[family]
    section["generator"] = {"base_channels": extent.width, "norm": norm}
    section["discriminator"] = {"base_channels": extent.width}
    if family == "spade":
        section["generator"] |= {
            "spade_hidden_channels": 2 * extent.width,
            "num_upsampling_layers": extent.upsampling,
        }
    else:
        section["generator"]["num_blocks"] = extent.blocks
        section["discriminator"]["norm"] = norm
    return section


def example_batch(family: str, extent: Extent, device: str, *, seed: int = 0) -> Batch:
    """Returns images and, for SPADE, planes of random labels."""
    random = torch.Generator().manual_seed(seed)
    height, width = extent.size
    images = 2 * torch.rand(2, extent.batch, 3, height, width, generator=random) - 1
    source = images[0]
    if family == "spade":
        labels = torch.randint(extent.labels, (extent.batch, height // 8, width // 8), generator=random)
        planes = nn.functional.one_hot(labels, extent.labels).permute(0, 3, 1, 2).float()
        source = nn.functional.interpolate(planes, scale_factor=8, mode="nearest")
    return Batch(source, images[1]).to(device)


def teacher_objective(family: str, extent: Extent, device: str, variant: Mapping[str, Any]) -> Any:
    """Returns the objective of a teacher with fresh weights, the same for every variant."""
    config = validate(TeacherConfig, settings(family, "teacher", extent, **variant), where="teacher")
    channels = extent.labels if family == "spade" else 3
    accelerator = Accelerator(cpu=device == "cpu", precision=config.precision)
    return build_teacher_objective(
        config, in_channels=channels, out_channels=3, crop_size=extent.size, accelerator=accelerator
    )


def student_objective(family: str, extent: Extent, device: str, variant: Mapping[str, Any]) -> Any:
    """Returns the objective of a student of a quarter of its teacher's MACs, both with fresh weights."""
    made = teacher_objective(family, extent, "cpu", {})
    teacher = made.generators["source_to_target"]
    random = np.random.default_rng(0)
    scales = {
        norm.name: (random.normal(size=norm.channels) * random.uniform(0.2, 1)).astype(np.float32)
        for norm in teacher.architecture.prunable_norms()
    }
    found = prune(
        teacher.architecture, scales, input_size=extent.size, budget="0.25x", config=PruneConfig(min_channels=1)
    )
    student = build_generator(found.architecture)
    initialise(student, kind="normal", gain=0.02, seed=1)
    config = validate(DistillConfig, settings(family, "distill", extent, **variant), where="distill")
    networks = {
        "generator_source_to_target": student,
        "discriminator_target": made.discriminators["target"],
    }
    return distillation_objective(
        config,
        networks,
        Accelerator(cpu=device == "cpu", precision=config.precision),
        teacher=teacher,
        direction=Direction.SOURCE_TO_TARGET,
    )


OBJECTIVES = {"teacher": teacher_objective, "distill": student_objective}


def plain_step(family: str, stage: str, objective: Any, device: str) -> Any:
    """Returns the plain form with the weights of an objective."""

    def twin(network: Any, make: Callable[[Any], nn.Module]) -> nn.Module:
        plain = make(network.architecture).to(device)
        plain.load_state_dict(network.state_dict())
        return plain

    networks = {
        "generator": twin(objective.generators["source_to_target"], plain_generator),
        "discriminator": twin(objective.discriminators["target"], plain_discriminator),
    }
    if stage == "distill":
        networks["teacher"] = twin(objective.teachers["source_to_target"], plain_generator)
    if family == "cyclegan" and stage == "teacher":
        networks["generator_back"] = twin(objective.generators["target_to_source"], plain_generator)
        networks["discriminator_back"] = twin(objective.discriminators["source"], plain_discriminator)
    return PLAIN_STEPS[family, stage](networks, WEIGHTS[family, stage])


def step_forms(
    family: str, stage: str, device: str, scale: str, *, axis: str = "", factor: float = 1.0, variants: bool = True
) -> Forms:
    """Makes the forms of an optimisation step.

    Args:
        family: pix2pix, cyclegan or spade.
        stage: teacher or distill.
        device: cpu or cuda.
        scale: A key of `EXTENTS`.
        axis: What is multiplied by `factor`: size, batch or width.
        factor: The factor.
        variants: Whether the forms besides "plain" and "ours" are wanted.
    """
    extent = EXTENTS[scale][family].grown(axis, factor)
    batch = example_batch(family, extent, device)
    wanted = {
        name: variant
        for name, variant in VARIANTS.items()
        if device in variant.devices and (variants or name == "ours")
    }
    objectives = {name: OBJECTIVES[stage](family, extent, device, each.settings) for name, each in wanted.items()}
    plain = plain_step(family, stage, objectives["ours"], device)
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(plain).step(batch.source, batch.target)
    calls: dict[str, Callable[[], Any]] = {"plain": partial(_set_up, partial(plain.step, batch.source, batch.target))}
    for name, each in wanted.items():
        shown = batch.to(device, memory_format=torch.channels_last) if each.settings.get("channels_last") else batch
        tf32, benchmark = (each.settings.get(setting, False) for setting in ("tf32", "cudnn_benchmark"))
        calls[name] = partial(_set_up, partial(objectives[name].step, shown), tf32=tf32, benchmark=benchmark)
    exact = [name for name, each in wanted.items() if each.exact]
    return Forms(
        calls=calls,
        difference=partial(_difference, calls, exact),
        flops=counter.get_total_flops(),
        facts={
            "batch_size": extent.batch,
            "size": list(extent.size),
            "width": extent.width,
            "work_macs": work_macs(stage, objectives["ours"], extent),
            "precision": {name: each.settings.get("precision", "fp32") for name, each in wanted.items()},
        },
    )


def work_macs(stage: str, objective: Any, extent: Extent) -> int:
    """Returns the MACs that the cost of a step grows with."""
    macs = true_macs(objective.generators["source_to_target"].architecture, *extent.size)
    if stage == "teacher":
        return teacher_work(extent.batch, macs)
    teacher_macs = true_macs(objective.teachers["source_to_target"].architecture, *extent.size)
    return student_work(extent.batch, teacher_macs, macs)


def _set_up(step: Callable[[], Any], *, tf32: bool = False, benchmark: bool = False) -> Any:
    """Takes a step; a plain float32 step uses no TF32, though torch allows cuDNN's by default."""
    torch.backends.cudnn.allow_tf32 = tf32
    torch.backends.cudnn.benchmark = benchmark
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    return step()


def _difference(calls: Mapping[str, Callable[[], dict[str, Tensor]]], exact: list[str]) -> float:
    """Takes a step of every form from the same weights, and compares the losses with those of the plain form.

    The second step's losses depend on the weights after the first, so they compare gradients, too.
    """
    worst = 0.0
    for _ in range(2):
        expected = {name: loss.item() for name, loss in calls["plain"]().items()}
        for name in exact:
            losses = calls[name]()
            for loss, value in expected.items():
                worst = max(worst, abs(losses[loss].item() - value) / max(abs(value), 1e-6))
    return worst
