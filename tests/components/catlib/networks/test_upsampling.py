"""Layers that double the size: what they compute and cost, how they start, and that files leave the default out."""

import pytest
import torch
from torch import nn

from components.catlib.config.networks import Upsample
from components.catlib.networks.families import build_generator
from components.catlib.networks.initialisation import initialise
from components.catlib.networks.macs import paper_macs, parameters, true_macs
from components.catlib.networks.upsampling import SubpixelConvolution, make_upsampling
from tests.components.catlib.networks.sample_architectures import inception, parse_architecture

KINDS: tuple[Upsample, ...] = ("transposed", "resize", "subpixel")


def test_resize_convolves_repeated_pixels() -> None:
    layer = make_upsampling("resize", 1, 1, bias=False)
    assert isinstance(layer, nn.Conv2d)
    nn.init.zeros_(layer.weight)
    layer.weight.data[0, 0, 1, 1] = 1  # the kernel of the identity
    made = layer(torch.tensor([[[[1.0, 2.0]]]]))
    assert made.tolist() == [[[[1, 1, 2, 2], [1, 1, 2, 2]]]]


def test_subpixel_lays_four_channels_into_a_square() -> None:
    layer = make_upsampling("subpixel", 1, 2, bias=False)
    assert isinstance(layer, nn.Conv2d)
    nn.init.zeros_(layer.weight)
    layer.weight.data[:, 0, 1, 1] = torch.arange(8.0)
    made = layer(torch.ones(1, 1, 1, 1))
    assert made.tolist() == [[[[0, 1], [2, 3]], [[4, 5], [6, 7]]]]


@pytest.mark.parametrize("kind", ["normal", "xavier"])
def test_subpixel_starts_without_a_checkerboard(kind: str) -> None:
    network = build_generator(inception(upsample="subpixel", num_blocks=1))
    initialise(network, kind=kind, gain=0.5, seed=1)  # pyright: ignore[reportArgumentType]
    layers = [module for module in network.modules() if isinstance(module, SubpixelConvolution)]
    assert len(layers) == 2
    for layer in layers:
        made = layer(torch.randn(1, layer.in_channels, 4, 4))
        assert made.std() > 0
        for row, column in ((0, 1), (1, 0), (1, 1)):
            assert torch.equal(made[..., row::2, column::2], made[..., ::2, ::2])


def test_all_kinds_cost_the_same_paper_macs() -> None:
    made = {kind: inception(upsample=kind, num_blocks=1) for kind in KINDS}
    assert len({paper_macs(architecture, 32, 32) for architecture in made.values()}) == 1
    transposed, resize, subpixel = (true_macs(architecture, 32, 32) for architecture in made.values())
    # 24 → 12 channels from 8x8 pixels, 12 → 6 from 16x16: 27 more per weight of a 3x3 kernel.
    assert resize - transposed == subpixel - transposed == 27 * (24 * 12 * 64 + 12 * 6 * 256)
    kept, repeated, shuffled = (parameters(architecture) for architecture in made.values())
    assert kept == repeated
    assert shuffled - kept == 3 * (9 * (24 * 12 + 12 * 6) + 12 + 6)


@pytest.mark.parametrize("kind", KINDS)
def test_files_state_every_kind_but_the_published_one(kind: Upsample) -> None:
    architecture = inception(upsample=kind)
    written = architecture.model_dump(mode="json")
    assert written.get("upsample") == (None if kind == "transposed" else kind)
    assert parse_architecture(written) == architecture
