"""Sections of version 0.1.0 in the form of today; whole ones, of real trainings, are in tests/kept."""

from typing import Any

import pytest

from components.catlib.config import (
    CycleGanConfig,
    CycleGanDistillConfig,
    Pix2PixDistillConfig,
    SpadeConfig,
    SpadeDistillConfig,
    TrainingConfig,
    validate,
)
from components.catlib.config.upgrading import upgraded

OLD: dict[str, Any] = {
    "epochs": 3,
    "schedule": "step",
    "step_epochs": 7,
    "plateau_patience": 5,
    "gan_objective": "hinge",
    "lambda_gan": 0.5,
    "lambda_gradient_penalty": 10.0,
    "reconstruction": "l2",
    "lambda_recon": 30.0,
    "lambda_feature": 4.0,
    "lambda_vgg": 2.0,
    "vgg_weights": {"uri": "v.pth", "sha256": None},
}
DISTILL = OLD | {
    "distillation": "mse",
    "lambda_distill": 2.0,
    "centred_kernels": False,
    "layer_weights": None,
    "init": None,
}
SHARED = {
    "epochs": 3,
    "schedule": {"kind": "step", "epochs": 7},
    "adversarial": {"kind": "hinge", "weight": 0.5},
}


@pytest.mark.parametrize(
    ("old", "model", "new"),
    [
        (
            OLD | {"lambda_cycle": 8.0, "lambda_identity": 0.25, "image_pool_size": 3},
            CycleGanConfig,
            {"family": "cyclegan", "cycle": {"weight": 8.0}, "identity": {"weight": 0.25}, "image_pool_size": 3},
        ),
        (
            OLD | {"generator": {"family": "inception_spade", "num_blocks": 9, "spectral": True}},
            SpadeConfig,
            {
                "family": "spade",
                "generator": {"family": "inception_spade", "spectral": True},
                "feature_matching": {"weight": 4.0},
                "perceptual": {"weight": 2.0, "weights": {"uri": "v.pth", "sha256": None}},
            },
        ),
        (
            DISTILL,
            Pix2PixDistillConfig,
            {
                "family": "pix2pix",
                "reconstruction": {"kind": "l2", "weight": 30.0},
                "distiller": {"kind": "mse", "weight": 2.0, "layer_weights": None},
            },
        ),
        (
            DISTILL | {"reconstruction": "vgg"},
            CycleGanDistillConfig,
            {
                "family": "cyclegan",
                "reconstruction": {"kind": "vgg", "weight": 30.0, "weights": {"uri": "v.pth", "sha256": None}},
                "distiller": {"kind": "mse", "weight": 2.0, "layer_weights": None},
            },
        ),
        (
            DISTILL | {"distillation": "none"},
            SpadeDistillConfig,
            {
                "family": "spade",
                "feature_matching": {"weight": 4.0},
                "perceptual": {"weight": 2.0, "weights": {"uri": "v.pth", "sha256": None}},
                "distiller": {"kind": "none"},
            },
        ),
    ],
)
def test_what_had_an_effect_is_kept_under_its_new_name(
    old: dict[str, Any], model: type[TrainingConfig], new: dict[str, Any]
) -> None:
    now = upgraded(old, model)
    assert now == SHARED | new
    assert upgraded(now, model) == now
    validate(model, now, where="section")


def test_what_version_0_1_0_did_not_write_stays_and_is_compared() -> None:
    assert upgraded({"epochs": 3, "unheard_of": 1}, SpadeConfig) == {"epochs": 3, "unheard_of": 1}


def test_what_is_in_another_section_now_is_left_out() -> None:
    old = {"family": "spade", "epochs": 3, "log_seconds": 5.0, "checkpoint_seconds": 60.0, "keep_checkpoints": 4}
    assert upgraded(old, SpadeConfig) == {"family": "spade", "epochs": 3}
