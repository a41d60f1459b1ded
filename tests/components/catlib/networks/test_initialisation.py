import math

import pytest
import torch
from torch import nn

from components.catlib.config import MultiscaleConfig, NormConfig
from components.catlib.networks.discriminator_architecture import discriminator_from_config
from components.catlib.networks.discriminators import build_discriminator
from components.catlib.networks.families import build_generator
from components.catlib.networks.initialisation import initialise
from tests.components.catlib.networks.architectures import inception, pruned_inception, spade


def multiscale() -> nn.Module:
    config = MultiscaleConfig(base_channels=4)
    return build_discriminator(discriminator_from_config(config, in_channels=3))


NETWORKS = {
    "instance": lambda: build_generator(inception()),
    "student": lambda: build_generator(pruned_inception()),
    "batch": lambda: build_generator(inception(norm=NormConfig(kind="batch", track_running_stats=True))),
    "spade": lambda: build_generator(spade()),
    "spectral": lambda: build_generator(spade(spectral=True)),
    "multiscale": multiscale,
}


@pytest.mark.parametrize("kind", ["normal", "xavier"])
@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS.keys())
def test_equal_seeds_give_bitwise_equal_networks(make, kind) -> None:
    states = []
    for seed in (5, 5, 6):
        network = make()
        initialise(network, kind=kind, gain=0.02, seed=seed)
        states.append(network.state_dict())
    first, second, other = states
    assert all(torch.equal(first[name], second[name]) for name in first)
    drawn = [name for name, value in first.items() if value.dim() == 4 or name.endswith(("weight_u", "weight_v"))]
    assert drawn
    assert not any(torch.equal(first[name], other[name]) for name in drawn if first[name].numel() > 1)


def test_initialising_again_forgets_everything() -> None:
    network = build_generator(inception(norm=NormConfig(kind="batch", track_running_stats=True)))
    initialise(network, kind="normal", gain=0.02, seed=1)
    fresh = {name: value.clone() for name, value in network.state_dict().items()}
    network(torch.randn(2, 3, 16, 16))
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1)
    initialise(network, kind="normal", gain=0.02, seed=1)
    assert all(torch.equal(value, fresh[name]) for name, value in network.state_dict().items())


def test_global_random_state_is_left_alone() -> None:
    network = build_generator(inception())
    before = torch.get_rng_state()
    initialise(network, kind="normal", gain=0.02, seed=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_normal_weights_have_the_deviation_asked_for() -> None:
    network = nn.Sequential(nn.Conv2d(64, 64, 5), nn.ConvTranspose2d(64, 32, 5))
    initialise(network, kind="normal", gain=0.02, seed=1)
    for layer in network:
        assert layer.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert layer.weight.mean().item() == pytest.approx(0, abs=0.0005)
        assert not layer.bias.any()


def test_xavier_weights_have_glorots_deviation() -> None:
    network = nn.Conv2d(48, 80, 3)
    initialise(network, kind="xavier", gain=0.02, seed=1)
    expected = 0.02 * math.sqrt(2 / (48 * 9 + 80 * 9))
    assert network.weight.std().item() == pytest.approx(expected, rel=0.02)


def test_xavier_agrees_with_torch_on_depthwise_and_transposed_convolutions() -> None:
    for layer in (nn.Conv2d(256, 256, 5, groups=256), nn.ConvTranspose2d(32, 48, 3)):
        initialise(layer, kind="xavier", gain=0.02, seed=1)
        ours = layer.weight.std().item()
        nn.init.xavier_normal_(layer.weight, gain=0.02)
        assert ours == pytest.approx(layer.weight.std().item(), rel=0.05)


@pytest.mark.parametrize("make", [nn.BatchNorm2d, nn.SyncBatchNorm])
def test_batch_norm_scales_are_drawn_around_one(make) -> None:
    norm = make(20000)
    initialise(norm, kind="normal", gain=0.02, seed=1)
    assert norm.weight.mean().item() == pytest.approx(1, abs=0.001)
    assert norm.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not norm.bias.any()
    assert not norm.running_mean.any()
    assert (norm.running_var == 1).all()


def test_instance_norm_scales_start_at_one() -> None:
    norm = nn.InstanceNorm2d(8, affine=True)
    nn.init.constant_(norm.weight, 3)
    nn.init.constant_(norm.bias, 3)
    initialise(norm, kind="normal", gain=0.02, seed=1)
    assert (norm.weight == 1).all()
    assert not norm.bias.any()


def test_norms_without_scales_are_fine() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.InstanceNorm2d(3))
    initialise(network, kind="normal", gain=0.02, seed=1)
    assert not list(network.parameters())


def test_spectral_vectors_have_unit_length() -> None:
    network = multiscale()
    initialise(network, kind="xavier", gain=0.02, seed=1)
    vectors = [value for name, value in network.state_dict().items() if name.endswith(("weight_u", "weight_v"))]
    assert vectors
    assert all(vector.norm().item() == pytest.approx(1, abs=1e-5) for vector in vectors)
