"""Recipes, batches and checks for networks small enough to train in a test."""

from typing import Any

import torch
from torch import Tensor, nn

from components.catlib.config import (
    DistillConfig,
    InceptionConfig,
    InceptionSpadeConfig,
    MultiscaleConfig,
    NormConfig,
    PatchConfig,
    TeacherConfig,
    validate,
)
from components.catlib.data.batches import Batch
from components.catlib.networks.families import architecture_from_config, build_generator
from components.catlib.networks.generator import Generator

SIZE = (16, 16)
SPADE_SIZE = (32, 64)
NUM_PLANES = 4

GENERATOR = InceptionConfig(
    base_channels=4, num_blocks=3, kernel_sizes=(1, 3), channels_reduction_factor=4, init_gain=0.2
)
SPADE_GENERATOR = InceptionSpadeConfig(
    base_channels=2,
    kernel_sizes=(1, 3),
    channels_reduction_factor=2,
    spade_hidden_channels=8,
    num_upsampling_layers="normal",
    norm=NormConfig(kind="syncbatch", track_running_stats=True),
    init="xavier",
    init_gain=1.0,
)
DISCRIMINATOR = PatchConfig(base_channels=4, num_layers=1, init_gain=0.2)
SPADE_DISCRIMINATOR = MultiscaleConfig(base_channels=4, num_layers=3, init="xavier", init_gain=1.0)


def teacher_config(family: str, **settings: Any) -> TeacherConfig:
    spade = family == "spade"
    networks = {
        "generator": SPADE_GENERATOR if spade else GENERATOR,
        "discriminator": SPADE_DISCRIMINATOR if spade else DISCRIMINATOR,
    }
    own = {"perceptual": 0} if spade else {}
    return validate(TeacherConfig, {"family": family, **own, **networks, **settings}, where="teacher")


def distill_config(family: str, **settings: Any) -> DistillConfig:
    own = {"perceptual": 0} if family == "spade" else {}
    return validate(DistillConfig, {"family": family, **own, **settings}, where="distill")


def tiny_generator(family: str) -> Generator:
    spade = family == "spade"
    return build_generator(
        architecture_from_config(
            SPADE_GENERATOR if spade else GENERATOR,
            in_channels=NUM_PLANES if spade else 3,
            out_channels=3,
            crop_size=SPADE_SIZE if spade else SIZE,
        )
    )


def batch(family: str, *, size: int = 3, seed: int = 0) -> Batch:
    random = torch.Generator().manual_seed(seed)
    height, width = SPADE_SIZE if family == "spade" else SIZE
    target = torch.rand(size, 3, height, width, generator=random) * 2 - 1
    if family != "spade":
        return Batch(torch.rand(size, 3, height, width, generator=random) * 2 - 1, target)
    labels = torch.randint(NUM_PLANES, (size, height, width), generator=random)
    return Batch(nn.functional.one_hot(labels, NUM_PLANES).permute(0, 3, 1, 2).float(), target)


def narrower(teacher: Generator) -> Generator:
    """Builds a student of the teacher with fewer channels everywhere."""
    widths = {norm.name: max(norm.channels // 2, 1) for norm in teacher.architecture.prunable_norms()}
    return build_generator(teacher.architecture.resized(widths))


def weights_of(networks: dict[str, nn.Module]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in nn.ModuleDict(networks).state_dict().items()}


def assert_gradient_reaches_everything(networks: dict[str, nn.Module]) -> None:
    """Every parameter has a gradient; only what a following norm takes away again may have one of 0."""
    for name, network in networks.items():
        for key, parameter in network.named_parameters():
            assert parameter.grad is not None, (name, key)
            assert torch.isfinite(parameter.grad).all(), (name, key)
            if not key.endswith(".bias"):
                assert parameter.grad.abs().max() > 0, (name, key)
