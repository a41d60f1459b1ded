import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from components.catlib.config import NormConfig
from components.catlib.networks.families import Architecture, build_generator
from components.catlib.networks.layers import Layer
from components.catlib.networks.macs import layer_paper_macs, layer_parameters, layer_true_macs, paper_macs, true_macs
from tests.components.catlib.networks.sample_architectures import ARCHITECTURES, inception, pruned, spade


def layer(kind, in_channels, out_channels, **values) -> Layer:
    defaults = {
        "name": "layer", "identity": "layer", "in_space": "source", "out_space": "target", "kernel_size": 1,
        "groups": 1, "affine": True, "input_size": (8, 8), "output_size": (8, 8), "tracks_running_stats": False,
    }  # fmt: skip
    return Layer(kind=kind, in_channels=in_channels, out_channels=out_channels, **(defaults | values))


@pytest.mark.parametrize(
    ("one", "paper", "true", "learned"),
    [
        (layer("conv", 2, 4, kernel_size=3), 2 * 4 * 9 * 64, 2 * 4 * 9 * 64, 2 * 4 * 9 + 4),
        (layer("conv", 2, 4, kernel_size=3, affine=False, output_size=(4, 4)), 2 * 4 * 9 * 16, 2 * 4 * 9 * 16, 72),
        (layer("conv", 4, 4, kernel_size=5, groups=4), 4 * 25 * 64, 4 * 25 * 64, 4 * 25 + 4),
        # A transposed convolution of stride 2 counts four times what it does.
        (layer("conv_transpose", 2, 3, kernel_size=3, output_size=(16, 16)), 54 * 256, 54 * 64, 54 + 3),
        (layer("norm", 5, 5), 5 * 64, 0, 10),
        (layer("norm", 5, 5, tracks_running_stats=True, affine=False), 0, 0, 0),
    ],
)
def test_macs_and_parameters_of_one_layer(one: Layer, paper: int, true: int, learned: int) -> None:
    assert (layer_paper_macs(one), layer_true_macs(one), layer_parameters(one)) == (paper, true, learned)


@pytest.mark.parametrize(("architecture", "size"), ARCHITECTURES.values(), ids=ARCHITECTURES)
def test_true_macs_are_half_of_what_torch_counts(architecture: Architecture, size: tuple[int, int]) -> None:
    with torch.device("meta"):
        network = build_generator(architecture).eval()
        semantics = torch.zeros(1, architecture.in_channels, *size)
    # Shapes are all that counts, except for spectral norm, whose products in eval mode are not the network's.
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(semantics)
    convolutions = {k: v for k, v in counter.get_flop_counts()["Global"].items() if "conv" in str(k)}
    assert sum(convolutions.values()) == 2 * true_macs(architecture, *size)


def test_conventions_differ_by_transposed_convolutions_and_norms() -> None:
    architecture = inception(norm=NormConfig(kind="batch", track_running_stats=True))
    transposed = [one for one in architecture.layers(32, 32) if one.kind == "conv_transpose"]
    surplus = sum(3 * layer_true_macs(one) for one in transposed)
    assert paper_macs(architecture, 32, 32) == true_macs(architecture, 32, 32) + surplus
    untracked = architecture.model_copy(update={"norm": NormConfig(kind="batch")})
    values = sum(
        one.out_channels * one.output_size[0] * one.output_size[1]
        for one in architecture.layers(32, 32)
        if one.kind == "norm"
    )
    assert paper_macs(untracked, 32, 32) == paper_macs(architecture, 32, 32) + values
    assert true_macs(untracked, 32, 32) == true_macs(architecture, 32, 32)


def test_macs_grow_with_the_image() -> None:
    architecture = inception(norm=NormConfig(kind="instance", track_running_stats=True))
    assert paper_macs(architecture, 64, 96) == 6 * paper_macs(architecture, 32, 32)


def test_a_vanished_spade_block_costs_nothing_but_its_shortcut() -> None:
    whole = spade()
    without = pruned(whole, up_1__res=0, up_1__dw=0)
    blocks = [
        sum(layer_paper_macs(one) for one in made.layers(64, 128) if one.name.startswith("up_1."))
        for made in (whole, without)
    ]
    # A 1x1 convolution from 16 to 8 channels, at 16x32 pixels.
    assert blocks[1] == 16 * 8 * 16 * 32
    assert paper_macs(whole, 64, 128) - paper_macs(without, 64, 128) == blocks[0] - blocks[1] > 0
