"""What a run will cost, before it starts: compute of its students, training steps, room on the disk."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from components.catlib.config import DatasetConfig, Recipe, TrainingConfig
from components.catlib.config.budgets import in_milliseconds, parse_budget
from components.catlib.data.builtin import PREFIX, open_builtin
from components.catlib.data.known_datasets import KNOWN
from components.catlib.data.locating import open_source
from components.catlib.data.packed import ImageRole
from components.catlib.data.samples import Collection
from components.catlib.data.sources import open_tree
from components.catlib.errors import UserError
from components.catlib.footprint.measuring import measuring_footprint
from components.catlib.footprint.networks import generator_activations
from components.catlib.footprint.students import evenly_pruned
from components.catlib.footprint.trainings import student_footprint, teacher_footprint
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.families import architecture_from_config
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.pruning.search import check_budget
from components.catlib.reporting.formatting import quantity
from components.catlib.storage import is_remote, is_web
from pipelines.latency_tables import table_of
from pipelines.preflight import Plan
from pipelines.resources import stage_resources
from pipelines.step_costs import gpu_hours, step_costs, student_work, teacher_work

BYTES_PER_PARAMETER = 12
"""Bytes of a parameter in a checkpoint: its value and two moments of Adam, as 4-byte floats."""


@dataclass
class Forecast:
    """What is known of a run before it starts; what is unknown is left out, and a note says why.

    Attributes:
        images: Number of training images (of the larger domain if they are unpaired).
        steps: Optimisation steps of each training, by stage; of students, those of the one that computes most.
        sweep_steps: Fewest and most steps of a sweep's students, if they differ.
        teacher_macs: MACs of the teacher for one image.
        budgets: MACs that a student may have at most, by budget in MACs or shares.
        milliseconds: The latency table, as words, that each budget in milliseconds is compared with.
        disk_bytes: Bytes of the packed images, and of the checkpoints of each training's generators.
        memory_bytes: Bytes of a device's memory that each stage with networks needs, by stage; of students the largest.
        memory: The same for people.
        work_macs: What an optimisation step of each training grows with, by stage; of students the largest.
        gpu_hours: Sentences on the time of trainings on a GPU.
        notes: Sentences on what is unknown.
    """

    images: int | None = None
    steps: dict[str, int] = field(default_factory=dict)
    sweep_steps: tuple[int, int] | None = None
    teacher_macs: int | None = None
    budgets: dict[str, int] = field(default_factory=dict)
    milliseconds: dict[str, str] = field(default_factory=dict)
    disk_bytes: dict[str, int] = field(default_factory=dict)
    memory_bytes: dict[str, int] = field(default_factory=dict)
    memory: dict[str, str] = field(default_factory=dict)
    work_macs: dict[str, int] = field(default_factory=dict)
    gpu_hours: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> Iterator[str]:
        """Yields the facts for people."""
        if self.teacher_macs is not None:
            yield f"teacher: {quantity(self.teacher_macs)} MACs per image"
        for budget, macs in self.budgets.items():
            share = f", {macs / self.teacher_macs:.3g}x of the teacher's" if self.teacher_macs else ""
            yield f"student {budget}: at most {quantity(macs)} MACs{share}"
        for budget, table in self.milliseconds.items():
            yield f"student {budget}: by {table}"
        if self.images is not None:
            yield f"training images: {self.images}"
        for stage, steps in self.steps.items():
            if stage == "distill" and self.sweep_steps:
                yield "steps of distill: {} to {}, by variation".format(*self.sweep_steps)
            else:
                yield f"steps of {stage}: {steps}" + (" for each student" if stage == "distill" else "")
        for what, size in self.disk_bytes.items():
            yield f"disk for {what}: about {size / 1e6:.1f} MB"
        for stage, needed in self.memory.items():
            yield f"memory of {stage}: about {needed}"
        yield from self.gpu_hours
        yield from self.notes


def forecast(plan: Plan) -> Forecast:
    """Returns what a run will cost, as far as it is known without downloading or computing anything.

    Raises:
        UserError: The images on this machine cannot be used: their layout is not recognised, or they do not pair.
    """
    recipe, made = plan.recipe, Forecast()
    if plan.trains:
        made.milliseconds = {each: _table(recipe) for each in recipe.budgets if in_milliseconds(each)}
        _macs(recipe, made, with_teacher=plan.pipeline in ("compress", "sweep"))
        try:
            _memory(plan, made)
        except UserError:
            if plan.pipeline in ("compress", "sweep"):
                raise
            made.notes.append("The memory follows from the teacher, which is not the one that the recipe describes.")
    with _collection(recipe.dataset) as collection:
        if collection is None:
            made.notes.append(
                "The number of training steps, and so the GPU-hours, follow from the number of images, which are not "
                "here yet."
            )
        else:
            _steps(plan, collection, made)
    _gpu_hours(plan, made)
    return made


def _table(recipe: Recipe) -> str:
    """Returns which table budgets in milliseconds are compared with."""
    given = recipe.prune.latency_table
    if given is None:
        return "a table of layers' times that the run measures first, on this machine with one thread"
    table = table_of(recipe)
    errors = f", errors up to {max(table.errors):.0%}" if table and table.errors else ""
    return f"the latency table {given.uri}" + (f" ({table}{errors})" if table else ", which is out of reach from here")


def _macs(recipe: Recipe, made: Forecast, *, with_teacher: bool) -> None:
    labels = recipe.dataset.num_labels is not None
    if not with_teacher or recipe.teacher.published is not None or labels:
        made.notes.append("The MACs follow from the teacher, whose architecture is not known yet.")
        return
    size = recipe.dataset.crop_size
    teacher: Any = architecture_from_config(recipe.teacher.generator, **recipe.dataset.channels, crop_size=size)
    made.teacher_macs = paper_macs(teacher, *size)
    limits = {
        budget: check_budget(teacher, input_size=size, budget=budget, config=recipe.prune)
        for budget in recipe.budgets
        if not in_milliseconds(budget)
    }
    made.budgets = {budget: min(int(limit.value), made.teacher_macs) for budget, limit in limits.items()}
    directions = 2 if recipe.teacher.family == "cyclegan" else 1
    kept = (recipe.resources.keep_checkpoints or 2) + 1  # and the best one
    made.disk_bytes["checkpoints of the teacher's generators"] = (
        parameters(teacher) * directions * BYTES_PER_PARAMETER * kept
    )


def _memory(plan: Plan, made: Forecast) -> None:
    """Adds what each stage with networks needs, with the teacher that the recipe describes and evenly cut students."""
    recipe, size = plan.recipe, plan.recipe.dataset.crop_size
    channels = _channels(recipe.dataset)
    teacher: Any = architecture_from_config(recipe.teacher.generator, **channels, crop_size=size)
    seen = channels["out_channels"] + (0 if recipe.teacher.family == "cyclegan" else channels["in_channels"])
    judge = discriminator_from_config(recipe.teacher.discriminator, in_channels=seen)
    inception = recipe.real_stats.features == "inception"
    needed = {"real-stats": measuring_footprint(recipe.real_stats.batch_size, size, inception=inception)}
    if plan.pipeline in ("compress", "sweep"):
        processes = _processes(plan, "teacher")
        needed["teacher"] = teacher_footprint(recipe.teacher, teacher, judge, size, processes=processes)
    whole = paper_macs(teacher, *size)
    shares = {"share": whole, "macs": 1}
    # A budget in milliseconds may leave a fast teacher as it is.
    budgets = [number * shares[unit] if unit in shares else whole for number, unit in map(parse_budget, recipe.budgets)]
    student = evenly_pruned(teacher, size, min(round(max(budgets)), whole))
    processes = _processes(plan, "distill")
    trainings = [
        student_footprint(each, student, teacher, judge, size, processes=processes) for each in _students(plan)
    ]
    needed["distill"] = max(trainings, key=lambda footprint: footprint.total)
    needed["evaluate"] = measuring_footprint(
        recipe.evaluate.batch_size,
        size,
        inception=inception,
        weights=parameters(teacher) + parameters(student),
        passing=generator_activations(teacher, size).passing,
        channels=sum(channels.values()),
    )
    made.memory_bytes = {stage: footprint.total for stage, footprint in needed.items()}
    made.memory = {stage: str(footprint) for stage, footprint in needed.items()}
    passing = true_macs(teacher, *size)
    made.work_macs = {
        "teacher": teacher_work(recipe.teacher.batch_size, passing),
        "distill": student_work(recipe.distill.batch_size, passing, true_macs(student, *size)),
    }


def _channels(config: DatasetConfig) -> dict[Literal["in_channels", "out_channels"], int]:
    """Returns what a generator reads and makes; label maps as if they had the plane of instances' edges."""
    if config.num_labels is None:
        return config.channels
    return {**config.channels, "in_channels": config.num_labels + config.dont_care_plane + 1}


def _processes(plan: Plan, stage: Literal["teacher", "distill"]) -> int:
    """Returns the number of processes that share a training's batches: one per accelerator of its pod."""
    return max(1, stage_resources(plan.recipe.resources, stage).gpus or 0) if plan.in_pods else 1


def _gpu_hours(plan: Plan, made: Forecast) -> None:
    costs = step_costs()
    made.gpu_hours = [
        gpu_hours(plan.recipe, stage, steps=steps, work_macs=made.work_macs[stage], costs=costs)
        for stage, steps in made.steps.items()
        if stage in made.work_macs
    ]


def _steps(plan: Plan, collection: Collection, made: Forecast) -> None:
    config = plan.recipe.dataset
    counts = [len(each.samples[: config.max_images]) for each in collection.train]
    made.images = max(counts, default=0)
    pixels = {"train": math.prod(config.load_size), "test": math.prod(config.crop_size)}
    if collection.pairing == "unpaired" and config.load_size != config.crop_size:
        pixels["train"] += pixels["test"]  # the references of feature distances
    made.disk_bytes["packed images"] = sum(
        len(each.samples[: config.max_images]) * pixels[split] * _bytes_per_pixel(role, collection, config)
        for split, lists in (("train", collection.train), ("test", collection.test))
        for each in lists
        for role in each.roles
    )
    trainings = {"teacher": plan.pipeline in ("compress", "sweep"), "distill": plan.trains}
    if trainings["teacher"]:
        made.steps["teacher"] = _length(plan.recipe.teacher, made.images)
    if trainings["distill"]:
        students, images = _students(plan), made.images
        lengths = [_length(each, images) for each in students]
        most = max(range(len(students)), key=lambda i: lengths[i] * students[i].batch_size)
        made.steps["distill"] = lengths[most]
        if min(lengths) != max(lengths):
            made.sweep_steps = min(lengths), max(lengths)
        if "distill" in made.work_macs:  # it grows with the batch
            made.work_macs["distill"] = (
                made.work_macs["distill"] // plan.recipe.distill.batch_size * students[most].batch_size
            )


def _length(section: TrainingConfig, images: int) -> int:
    return section.total_steps(images // section.batch_size)


def _students(plan: Plan) -> list[Any]:
    """Returns the distill sections of the run: of a sweep one per variation."""
    if plan.pipeline == "sweep":
        return [student.distill for student in plan.recipe.variations()]
    return [plan.recipe.distill]


def _bytes_per_pixel(role: ImageRole, collection: Collection, config: DatasetConfig) -> int:
    if role == "source" and collection.num_labels is not None:
        return 1
    if role == "source" or role == "target":
        values = config.values[role]
        return values.channels * np.dtype(values.type).itemsize
    return {"instances": 4, "ground_truth": 0}[role]


@contextlib.contextmanager
def _collection(config: DatasetConfig) -> Iterator[Collection | None]:
    """Opens the images if they are on this machine; yields None otherwise."""
    source = config.source
    if source.startswith(PREFIX):
        yield open_builtin(config, source)
    elif is_web(source) or is_remote(source) or not any(place.exists() for place in _places(source)):
        yield None
    else:
        with open_source(source, sha256=config.sha256) as (tree, provenance):
            yield open_tree(config, tree, provenance)


def _places(source: str) -> list[Path]:
    """Returns where on this machine the images of a path or of a known dataset may be."""
    return [Path(source), *(KNOWN[source].places if source in KNOWN else ())]
