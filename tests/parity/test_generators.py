"""Generators against the reference implementation: outputs, distillation features, running statistics."""

import re
from typing import Any

import pytest
import torch
from torch import Tensor

from components.catlib.config import GeneratorConfig, InceptionConfig, InceptionSpadeConfig, NormConfig
from components.catlib.networks.families import Architecture, architecture_from_config, build_generator
from components.catlib.networks.generator import Generator
from components.catlib.networks.published.generators import generator_from_state
from tests.parity.cases import Case
from tests.parity.reference_configs import with_hidden_channels

INCEPTION_TOLERANCE = 1e-5
SPADE_TOLERANCE = 5e-5


def activation(facts: dict[str, Any]) -> str:
    return "leaky_relu" if "LeakyReLU" in facts["active_fn"] else "relu"


def inception_config(facts: dict[str, Any], *, tracks: bool) -> InceptionConfig:
    return InceptionConfig(
        base_channels=facts["ngf"],
        num_blocks=int(re.search(r"(\d+)blocks", facts["netG"])[1]),
        kernel_sizes=tuple(facts["kernel_sizes"]),
        channels_reduction_factor=facts["channels_reduction_factor"],
        norm=NormConfig(
            kind=facts["norm"],
            affine=facts["norm_affine"],
            track_running_stats=tracks,
            momentum=facts["norm_momentum"],
            epsilon=facts["norm_epsilon"],
        ),
        padding=facts["padding_type"],
        dropout=facts["dropout_rate"],
        activation=activation(facts),
    )


def spade_config(facts: dict[str, Any], num_upsampling_layers: str) -> InceptionSpadeConfig:
    spectral, spade_norm = re.fullmatch(r"(spectral)?spade(instance|batch|syncbatch)\dx\d", facts["norm_G"]).groups()
    return InceptionSpadeConfig(
        base_channels=facts["ngf"],
        kernel_sizes=tuple(facts["kernel_sizes"]),
        channels_reduction_factor=facts["channels_reduction_factor"],
        norm=NormConfig(kind="syncbatch", track_running_stats=True),
        activation=activation(facts),
        num_upsampling_layers=num_upsampling_layers,
        spade_norm=spade_norm,
        spade_hidden_channels=facts.get("nhidden_spade", 128),
        spectral=spectral is not None,
    )


def check_outputs(generator: Generator, case: Case, group: str, *, tolerance: float) -> None:
    """Compares one forward pass in the mode that the group is named after: "eval", "more/train", "notrack_eval", …"""
    generator.train(group.endswith("train"))
    with torch.no_grad():
        image, features = generator(case.tensors["input"].float(), return_features=True)
    close_image(image, case.tensors[f"{group}/output"], tolerance)
    expected_features = case.group(f"{group}/act")
    if expected_features:
        assert set(features) == set(expected_features)
        assert tuple(features) == tuple(generator.distillation_layers)
    for name, feature in expected_features.items():
        close(features[name], feature, tolerance)
    state = generator.state_dict()
    for name, value in case.group(f"{group}/state_after").items():
        if name in state and not name.endswith("num_batches_tracked"):
            close(state[name], value, tolerance)


def close(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compares within a tolerance for values around 1: float32 rounds larger ones more coarsely."""
    scale = max(1.0, expected.abs().max().item())
    torch.testing.assert_close(actual, expected, rtol=0, atol=tolerance * scale)


def close_image(actual: Tensor, expected: Tensor, tolerance: float) -> None:
    """Compares images; in a saturated one the few values between black and white come from huge features."""
    assert actual.shape == expected.shape
    near = (actual - expected).abs() <= tolerance
    saturated = (expected.abs() > 0.999).float().mean() > 0.5
    assert near.float().mean() >= (0.99 if saturated else 1)


def groups_with_output(case: Case) -> list[str]:
    return sorted(key.removesuffix("/output") for key in case.tensors if key.endswith("/output"))


def filled(architecture: Architecture, case: Case, config: GeneratorConfig, size: tuple[int, int]) -> Generator:
    """Builds the generator that the facts describe and checks that its tensors alone tell the same architecture."""
    generator = generator_from_state(case.group("state"), like=config, input_size=size, where=case.name)
    assert generator.architecture == architecture
    return generator


@pytest.mark.cases("gen_inception_*.json")
def test_inception_generator(case: Case) -> None:
    facts = case.facts["config"]
    size = tuple(facts["input_shape"][-2:])
    assert facts["channels"] is None
    sizes = {"in_channels": facts["input_nc"], "out_channels": facts["output_nc"], "crop_size": size}
    groups = groups_with_output(case)
    assert groups
    for group in groups:
        config = inception_config(facts, tracks=facts["norm_track_running_stats"])
        generator = filled(architecture_from_config(config, **sizes), case, config, size)
        if group.startswith("notrack"):
            untracked = inception_config(facts, tracks=False)
            generator_without = build_generator(architecture_from_config(untracked, **sizes))
            expected_keys = set(generator_without.state_dict())
            generator_without.load_state_dict({k: v for k, v in generator.state_dict().items() if k in expected_keys})
            generator = generator_without
        check_outputs(generator, case, group, tolerance=INCEPTION_TOLERANCE)


@pytest.mark.cases("gen_spade_*.json")
def test_spade_generator(case: Case) -> None:
    facts = case.facts["config"]
    groups = groups_with_output(case)
    assert groups
    for group in groups:
        first, _, rest = group.partition("/")
        upsampling = first if rest else facts.get("num_upsampling_layers", "more")
        config = spade_config(facts, upsampling)
        size = round(facts["crop_size"] / facts["aspect_ratio"]), facts["crop_size"]
        architecture = architecture_from_config(
            config,
            in_channels=facts["semantic_nc"],
            out_channels=case.tensors[f"{group}/output"].shape[1],
            crop_size=size,
        )
        architecture = with_hidden_channels(architecture, facts["channels"], config.channels_reduction_factor)
        latent = case.facts["latent"]
        latent = latent.get(upsampling, latent)
        assert architecture.latent_size == (latent["sh"], latent["sw"])
        check_outputs(filled(architecture, case, config, size), case, group, tolerance=SPADE_TOLERANCE)
