"""Discriminators against the reference implementation: names of tensors, outputs, power iterations."""

from typing import Any

import pytest
import torch
from torch import Tensor

from components.catlib.config import DiscriminatorConfig, MultiscaleConfig, NormConfig, PatchConfig, PixelConfig
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.discriminators import build_discriminator
from components.catlib.networks.published.discriminators import discriminator_from_state
from tests.parity.cases import Case

TOLERANCE = 1e-5


def discriminator_config(facts: dict[str, Any]) -> DiscriminatorConfig:
    norm = NormConfig()
    if "norm" in facts:
        norm = NormConfig(kind=facts["norm"], affine=facts["affine"], track_running_stats=facts["track_running_stats"])
    width, num_layers = facts["ndf"], facts.get("n_layers_D") or facts.get("n_layers") or 3
    match facts["netD"]:
        case "n_layers":
            return PatchConfig(base_channels=width, num_layers=num_layers, norm=norm)
        case "pixel":
            return PixelConfig(base_channels=width, norm=norm)
        case "multi_scale":
            return MultiscaleConfig(base_channels=width, num_layers=num_layers, num_scales=facts.get("num_D", 2))
    raise AssertionError(facts["netD"])


def check_output(output: Tensor | list[list[Tensor]], expected: dict[str, Tensor], name: str) -> None:
    """Compares a tensor with `name`, or nested lists with `name/<scale>/<layer>`."""
    if isinstance(output, Tensor):
        found = {name: output}
    else:
        found = {
            f"{name}/{scale}/{layer}": feature
            for scale, features in enumerate(output)
            for layer, feature in enumerate(features)
        }
    wanted = {key: value for key, value in expected.items() if key == name or key.startswith(f"{name}/")}
    assert set(found) == set(wanted)
    for key, value in wanted.items():
        torch.testing.assert_close(found[key], value, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.cases("discriminators.json")
def test_discriminators(case: Case) -> None:
    assert case.facts["nets"]
    for name, facts in case.facts["nets"].items():
        tensors = case.group(name)
        state = case.group(f"{name}/state")
        config = discriminator_config(facts)
        architecture = discriminator_from_config(config, in_channels=tensors["input"].shape[1])
        assert list(build_discriminator(architecture).state_dict()) == facts["state_keys"]
        for mode in ("eval", "train"):
            if not any(key.startswith(f"{mode}_output") for key in tensors):
                continue
            discriminator = discriminator_from_state(state, like=config, where=name)
            assert discriminator.architecture == architecture
            discriminator.train(mode == "train")
            check_output(discriminator(tensors["input"]), tensors, f"{mode}_output")
            after = discriminator.state_dict()
            for key, value in case.group(f"{name}/state_after_{mode}_forward").items():
                torch.testing.assert_close(after[key], value, rtol=TOLERANCE, atol=TOLERANCE)
                assert not torch.equal(value, state[key])
