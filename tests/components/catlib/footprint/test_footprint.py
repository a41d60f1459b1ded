"""The memory that stages foretell, beside what torch really takes and beside figures counted at full size."""

import logging
import re
import time
from typing import Any

import pytest
import torch

from components.catlib.config import DistillConfig, TeacherConfig, validate
from components.catlib.data.batches import Batch
from components.catlib.distributed.devices import Accelerator
from components.catlib.footprint.measuring import measuring_footprint
from components.catlib.footprint.of_training import savings, state_training
from components.catlib.footprint.stating import Footprint, memory_of, state
from components.catlib.footprint.students import evenly_pruned
from components.catlib.footprint.trainings import student_footprint, teacher_footprint
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.macs import paper_macs
from components.catlib.objectives.distillation import distillation_objective
from components.catlib.objectives.distillers.mse import FeatureAdaptors
from components.catlib.recipes import load_recipe
from components.catlib.training.building import build_teacher_objective
from pipelines.forecasting import forecast
from pipelines.preflight import Plan
from tests.components.catlib.footprint.allocations import Allocations
from tests.components.catlib.objectives.test_teachers import build
from tests.components.catlib.objectives.tiny import teacher_config

GIB = 2**30
CARD_24_GB = 23.5 * GIB
"""What is left of the 24 GiB of such a card after the driver's own, about."""


# -------------------------------------------------------------------------------------------- what torch really takes

SIZE = (64, 64)
PLANES = 6
INSTANCE = {"base_channels": 16, "num_blocks": 3}
BATCH = INSTANCE | {"norm": {"kind": "batch", "track_running_stats": True}}
SPADE = {
    "base_channels": 8,
    "num_upsampling_layers": "normal",
    "norm": {"kind": "batch", "track_running_stats": True},
    "spade_norm": "batch",
}


def _section(family: str, generator: dict[str, Any], **settings: Any) -> dict[str, Any]:
    return {
        "family": family,
        "generator": generator,
        "discriminator": {"base_channels": 16, "num_layers": 3},
        "batch_size": 4,
        **({"perceptual": 0} if family == "spade" else {}),
        **settings,
    }


def _channels(family: str) -> int:
    return PLANES if family == "spade" else 3


def _peak(objective: Any, family: str, count: int, *others: torch.nn.Module) -> int:
    """Returns the most bytes during the second step, when the optimisers hold their moments."""
    counted = Allocations()
    for network in (*objective.networks.values(), *others):
        for tensor in (*network.parameters(), *network.buffers()):
            counted.follow(tensor)
    with counted:
        images = Batch(torch.rand(count, _channels(family), *SIZE), torch.rand(count, 3, *SIZE))
        objective.step(images)
        counted.peak = counted.live
        objective.step(images)
    return counted.peak


@pytest.mark.parametrize(
    ("family", "generator", "settings"),
    [
        ("pix2pix", BATCH, {}),
        ("pix2pix", INSTANCE, {"recompute_activations": True}),
        ("pix2pix", INSTANCE, {"images_per_pass": 1}),
        ("cyclegan", INSTANCE, {}),
        ("cyclegan", INSTANCE, {"recompute_activations": True, "images_per_pass": 2}),
        ("spade", SPADE, {}),
        ("spade", SPADE, {"recompute_activations": True}),
    ],
)
def test_a_teacher_takes_about_what_was_foretold(
    family: str, generator: dict[str, Any], settings: dict[str, Any]
) -> None:
    config = validate(TeacherConfig, _section(family, generator, image_pool_size=0, **settings) if family == "cyclegan"
                      else _section(family, generator, **settings), where="teacher")  # fmt: skip
    objective = build_teacher_objective(
        config,
        in_channels=_channels(family),
        out_channels=3,
        crop_size=SIZE,
        accelerator=Accelerator(cpu=True),
    )
    made = objective.networks["generator_source_to_target"].architecture
    judge = objective.networks["discriminator_target"].architecture
    needed = teacher_footprint(config, made, judge, SIZE)
    taken = _peak(objective, family, 4)
    assert 0.85 < needed.total / taken < 1.25, (str(needed), taken / 2**20)


@pytest.mark.parametrize(
    ("family", "generator", "distiller"),
    [("pix2pix", BATCH, "kernel_alignment"), ("cyclegan", INSTANCE, "mse"), ("spade", SPADE, "kernel_alignment")],
)
def test_a_student_takes_about_what_was_foretold(family: str, generator: dict[str, Any], distiller: str) -> None:
    taught = validate(TeacherConfig, _section(family, generator), where="teacher")
    teaching = build_teacher_objective(
        taught, in_channels=_channels(family), out_channels=3, crop_size=SIZE, accelerator=Accelerator(cpu=True)
    )
    own = {"perceptual": 0} if family == "spade" else {}
    config = validate(
        DistillConfig, {"family": family, "batch_size": 4, "distiller": distiller, **own}, where="distill"
    )
    teacher = teaching.generators["source_to_target"]
    student = build_generator(evenly_pruned(teacher.architecture, SIZE, paper_macs(teacher.architecture, *SIZE) // 2))
    networks = {
        "generator_source_to_target": student,
        "discriminator_target": teaching.discriminators["target"],
    }
    if distiller == "mse":
        networks["adaptors"] = FeatureAdaptors(student, teacher)
    objective = distillation_objective(
        config, networks, Accelerator(cpu=True), teacher=teacher, direction="source_to_target"
    )
    judge = networks["discriminator_target"].architecture
    needed = student_footprint(config, student.architecture, teacher.architecture, judge, SIZE)
    taken = _peak(objective, family, 4, teacher)
    assert 0.85 < needed.total / taken < 1.25, (str(needed), taken / 2**20)


# ------------------------------------------------------------------------------------- figures counted at full size


@pytest.fixture(scope="module")
def published() -> dict[str, dict[str, float]]:
    """GiB of each stage, by recipe."""
    recipes = ("horse2zebra", "zebra2horse", "map2sat", "cityscapes", "cityscapes-gaugan-30g", "cityscapes-gaugan-5g6")
    found = {}
    for name in recipes:
        plan = Plan("compress", load_recipe(name), {})
        started = time.process_time()
        found[name] = {stage: size / GIB for stage, size in forecast(plan).memory_bytes.items()}
        assert time.process_time() - started < 2, "validate stays quick"
    return found


@pytest.mark.parametrize(
    ("recipe", "stage", "counted"),
    [
        ("horse2zebra", "teacher", 27.3),
        ("map2sat", "teacher", 15.0),
        ("cityscapes-gaugan-30g", "teacher", 26.4),
        ("horse2zebra", "distill", 11.7),
        ("zebra2horse", "distill", 11.7),
        ("map2sat", "distill", 16.5),
        ("cityscapes-gaugan-30g", "distill", 18.0),
    ],
)
def test_published_recipes_need_what_fake_tensors_count(
    published: dict[str, dict[str, float]], recipe: str, stage: str, counted: float
) -> None:
    """Whole steps in fp32, counted tensor by tensor."""
    assert published[recipe][stage] == pytest.approx(counted, rel=0.08)


def test_a_card_of_24_gb_trains_every_published_recipe(published: dict[str, dict[str, float]]) -> None:
    for name, stages in published.items():
        again = forecast(Plan("compress", load_recipe(name, ["teacher.recompute_activations=true"]), {})).memory_bytes
        assert again["teacher"] < CARD_24_GB < 24 * GIB
        assert stages["distill"] * GIB < CARD_24_GB
        assert stages["teacher"] * GIB > again["teacher"]


def test_horse2zebra_also_fits_in_parts() -> None:
    plan = Plan("compress", load_recipe("horse2zebra", ["teacher.images_per_pass=8"]), {})
    assert forecast(plan).memory_bytes["teacher"] < 8 * GIB


def test_processes_and_short_types_divide_it() -> None:
    recipe = load_recipe("horse2zebra")
    made = architecture_from_config(recipe.teacher.generator, in_channels=3, out_channels=3, crop_size=(256, 256))
    judge = discriminator_from_config(recipe.teacher.discriminator, in_channels=3)
    whole = teacher_footprint(recipe.teacher, made, judge, (256, 256))
    short = teacher_footprint(recipe.teacher.model_copy(update={"precision": "bf16"}), made, judge, (256, 256))
    fourth = teacher_footprint(recipe.teacher, made, judge, (256, 256), processes=4)
    assert short.weights == fourth.weights == whole.weights
    assert short.activations == pytest.approx(whole.activations / 2, rel=0.02)
    assert fourth.activations == pytest.approx(whole.activations / 4, rel=0.02)
    averaged = teacher_footprint(recipe.teacher.model_copy(update={"ema_decay": 0.9}), made, judge, (256, 256))
    assert averaged.weights > whole.weights


def test_an_evenly_pruned_student_is_within_its_budget() -> None:
    recipe = load_recipe("cityscapes-gaugan-30g")
    made = architecture_from_config(recipe.teacher.generator, in_channels=36, out_channels=3, crop_size=(256, 512))
    assert 27e9 < paper_macs(evenly_pruned(made, (256, 512), int(30e9)), 256, 512) <= 30e9


# ------------------------------------------------------------------------------------------------ what stages say of it


def test_a_training_says_what_it_needs_beside_what_there_is(caplog: pytest.LogCaptureFixture) -> None:
    objective = build("pix2pix")
    with caplog.at_level(logging.INFO):
        state_training("teacher", teacher_config("pix2pix"), objective.networks, (16, 16), Accelerator(cpu=True))
    (line,) = caplog.messages
    there = memory_of(torch.device("cpu")) / GIB
    assert re.fullmatch(
        r"teacher needs about [\d.]+ MiB \(weights and optimisers [\d.]+, activations [\d.]+\); "
        rf"cpu has {there:.1f} GiB",
        line,
    )


def test_too_little_memory_is_a_warning_that_names_settings(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        state("teacher", Footprint(2**50, 2**50), torch.device("cpu"), savings="lower teacher.batch_size")
    stated, warned = caplog.records
    assert stated.getMessage().startswith("teacher needs about 2097152.0 GiB (weights and optimisers 1048576.0, ")
    assert warned.levelno == logging.WARNING
    assert warned.getMessage() == "teacher may run out of memory; if it does, lower teacher.batch_size"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({}, "set teacher.recompute_activations: true or set teacher.precision: bf16 or set teacher.images_per_pass "
             "below 32 or lower teacher.batch_size"),
        ({"images_per_pass": 8, "recompute_activations": True, "precision": "bf16"},
         "lower teacher.images_per_pass or lower teacher.batch_size"),
        ({"compile": True, "adversarial": "hinge", "images_per_pass": 1},
         "set teacher.precision: bf16 or lower teacher.batch_size"),
        ({"adversarial": "wgangp", "recompute_activations": True},
         "set teacher.precision: bf16 or lower teacher.batch_size"),
    ],
)  # fmt: skip
def test_settings_that_help_are_those_that_are_open(settings: dict[str, Any], named: str) -> None:
    networks = build("pix2pix").networks
    assert savings("teacher", teacher_config("pix2pix", **settings), networks) == named
    normed = {**networks, "generator_source_to_target": torch.nn.BatchNorm2d(3)}
    assert "images_per_pass" not in savings("teacher", teacher_config("pix2pix", **settings), normed)


def test_measuring_needs_memory_for_a_pass() -> None:
    small, large = (measuring_footprint(count, (256, 256), inception=True) for count in (8, 32))
    assert small.weights == large.weights == 4 * 23_900_000
    assert large.activations == 4 * small.activations
    assert measuring_footprint(8, (256, 256), inception=False).total < small.total
