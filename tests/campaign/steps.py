"""The steps of the published recipes at full size or small: their memory, and how exact they are."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from components.catlib.config import Recipe, validate
from components.catlib.config.sections import Section
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.distributed.machines import torch_machine
from components.catlib.networks.directions import Direction
from components.catlib.networks.families import build_generator
from components.catlib.networks.initialisation import initialise
from components.catlib.objectives.distillation import distillation_objective
from components.catlib.pruning.search import prune
from components.catlib.recipes import load_recipe
from components.catlib.timing import measure
from components.catlib.training.building import build_teacher_objective
from components.catlib.training.perceptual_weights import wanted_perceptual_loss
from tests.benchmarks.steps import Extent, example_batch

RECIPES = (
    "map2sat",
    "cityscapes",
    "horse2zebra",
    "zebra2horse",
    "cityscapes-gaugan-5g6",
    "cityscapes-gaugan-30g",
)
"""The published recipes."""

STAGES = ("teacher", "distill")
STEPS = 20


def published(name: str, *, tiny: bool, weights: Path) -> Recipe:
    """Returns a published recipe; tiny: with 4 channels, images of 32 pixels, batches of 2 and no VGG19.

    Args:
        name: Its name.
        tiny: Whether it is shrunk.
        weights: A folder for random weights of a VGG19, which need no download and as much memory as trained ones.
    """
    changes = []
    spade = load_recipe(name).teacher.family == "spade"
    if tiny:
        size, load = ("[64, 128]", "[64, 128]") if spade else ("32", "36")
        changes += [f"dataset.crop_size={size}", f"dataset.load_size={load}", "dataset.prepared_size=null"]
        changes += ["teacher.generator.base_channels=4", "teacher.discriminator.base_channels=4"]
        changes += ["teacher.batch_size=2", "distill.batch_size=2", "prune.min_channels=1"]
        changes += ["teacher.generator.spade_hidden_channels=8"] if spade else ["teacher.generator.num_blocks=2"]
        changes += [f"{stage}.perceptual=0" for stage in STAGES] if spade else []
        return load_recipe(name, changes, ["0.5x"])
    if spade:
        changes += [f"{stage}.perceptual.weights={{uri: '{_random_vgg(weights)}'}}" for stage in STAGES]
    return load_recipe(name, changes)


def _random_vgg(folder: Path) -> Path:
    path = folder / "vgg19-random.pth"
    if not path.exists():
        from torchvision.models.vgg import cfgs, make_layers

        layers = make_layers(cfgs["E"], batch_norm=False)
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({f"features.{key}": value for key, value in layers.state_dict().items()}, path)
    return path


def extent_of(recipe: Recipe, stage: str, *, batch: int | None = None) -> Extent:
    """Returns the size of a recipe's steps."""
    planes = (recipe.dataset.num_labels or 0) + 1 if recipe.teacher.family == "spade" else 3
    return Extent(
        size=recipe.dataset.crop_size,
        batch=batch or getattr(recipe, stage).batch_size,
        width=recipe.teacher.generator.base_channels,
        labels=planes,
    )


def build(recipe: Recipe, stage: str, device: str, changes: dict[str, Any]) -> Any:
    """Returns the objective of a recipe's stage with fresh weights, the same every time.

    Args:
        recipe: The recipe.
        stage: teacher or distill.
        device: cpu or cuda.
        changes: Settings of the section that differ, such as the precision.
    """

    def changed(section: Section) -> Any:
        values = section.model_dump(mode="json") | (changes if section is getattr(recipe, stage) else {})
        return validate(type(section), values, where=stage)

    extent = extent_of(recipe, stage)
    teacher_config = changed(recipe.teacher)
    precision = changed(getattr(recipe, stage)).precision
    accelerator = Accelerator(cpu=device == "cpu" or stage == "distill", precision=precision)
    made = build_teacher_objective(
        teacher_config, in_channels=extent.labels, out_channels=3, crop_size=extent.size, accelerator=accelerator
    )
    if stage == "teacher":
        return made
    direction = Direction(recipe.prune.generator)
    teacher = made.generators[direction]
    random = np.random.default_rng(0)
    scales = {
        norm.name: (random.normal(size=norm.channels) * random.uniform(0.2, 1)).astype(np.float32)
        for norm in teacher.architecture.prunable_norms()
    }
    found = prune(
        teacher.architecture, scales, input_size=extent.size, budget=str(recipe.budgets[0]), config=recipe.prune
    )
    student = build_generator(found.architecture)
    initialise(student, kind="normal", gain=0.02, seed=1)
    config = changed(recipe.distill)
    networks = {
        f"generator_{direction}": student,
        f"discriminator_{direction.output}": made.discriminators[direction.output],
    }
    accelerator = Accelerator(cpu=device == "cpu", precision=precision)
    perceptual = wanted_perceptual_loss(config, accelerator.device)
    return distillation_objective(
        config, networks, accelerator, teacher=teacher, direction=direction, perceptual=perceptual
    )


def memory_of(name: str, stage: str, device: str, *, tiny: bool, weights: Path) -> dict[str, Any]:
    """Returns the peak memory and the time of a step of a recipe at its own batch; of a step that does not fit, why.

    Every weight, gradient and moment counts, so this runs in a process of its own.
    """
    recipe = published(name, tiny=tiny, weights=weights)
    extent = extent_of(recipe, stage)
    found: dict[str, Any] = {"batch_size": extent.batch, "size": list(extent.size)}
    try:
        objective = build(recipe, stage, device, {})
        batch = example_batch(recipe.teacher.family, extent, device)
        machine = torch_machine(device)
        times = measure({"step": lambda: objective.step(batch)}, repeats=3, warmup=2, machine=machine, memory=True)
    except torch.OutOfMemoryError as error:
        return found | {"fits": False, "error": str(error).splitlines()[0]}
    return found | {
        "fits": True,
        "seconds": times["step"].median,
        "device_bytes": times["step"].device_bytes,
        "host_bytes": times["step"].host_bytes,
    }


ARITHMETICS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "TF32": {"tf32": True},
    "bf16": {"precision": "bf16", "tf32": True},
}


def exactness_of(name: str, stage: str, device: str, *, tiny: bool, weights: Path) -> dict[str, Any]:
    """Takes 20 steps of a recipe at batch 2 in float64 and in shorter types, and compares the losses.

    Returns:
        By arithmetic and loss: the relative difference of the first step, and the largest of all steps.
    """
    recipe = published(name, tiny=tiny, weights=weights)
    extent = extent_of(recipe, stage, batch=2)
    batches = [example_batch(recipe.teacher.family, extent, device, seed=seed) for seed in range(STEPS)]

    def curve(changes: dict[str, Any], widen: Callable[[Any], Any]) -> dict[str, list[float]]:
        torch.backends.cudnn.allow_tf32 = bool(changes.get("tf32"))
        torch.set_float32_matmul_precision("high" if changes.get("tf32") else "highest")
        objective = widen(build(recipe, stage, device, changes))
        taken = [objective.step(widen(batch)) for batch in batches]
        return {loss: [step[loss].item() for step in taken] for loss in ("generator", "discriminator")}

    expected = curve({}, _widened)
    found: dict[str, Any] = {"float64": expected}
    for arithmetic, changes in ARITHMETICS.items():
        if device == "cpu" and arithmetic == "TF32":
            continue
        losses = curve(changes, lambda unchanged: unchanged)
        found[arithmetic] = {
            loss: {"first": differences[0], "largest": max(differences), "finite": bool(np.isfinite(values).all())}
            for loss, values in losses.items()
            for differences in [list(_differences(values, expected[loss]))]
        }
    return found


def _widened(thing: Any) -> Any:
    if isinstance(thing, Batch):
        return Batch(thing.source.double(), thing.target.double())
    for network in _networks(thing):
        network.double()  # in place: the optimisers keep their parameters
    return thing


def _networks(objective: Any) -> Iterator[nn.Module]:
    yield from objective.networks.values()
    yield from getattr(objective, "teachers", {}).values()
    for part in vars(objective).values():
        for each in (part, *(vars(part).values() if hasattr(part, "__dict__") else ())):
            if isinstance(each, nn.Module):
                yield each


def _differences(values: list[float], expected: list[float]) -> Iterator[float]:
    for value, wanted in zip(values, expected, strict=True):
        yield abs(value - wanted) / max(abs(wanted), 1e-3)
